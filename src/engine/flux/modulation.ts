/**
 * How the rows of the modulation table are cut into [D] chunks. The conditioning graph writes the
 * table, one row per step, and the step graph reads its row; both follow this one order:
 * per double block img then txt (shift, scale, gate of attention, then of the feed-forward), per
 * single block shift, scale, gate, at the end the final layer's shift and scale.
 * Scales are stored as 1 + scale.
 */
import type { Value } from '../runtime/onnx/graph.js'
import type { Ops } from '../runtime/ops/ops.js'
import { type FluxParams, hiddenSize } from './params.js'

export type Modulation = { readonly shift: Value; readonly scale: Value; readonly gate: Value }

/** What scales and shifts one stream of a double block: its attention and its feed-forward. */
export type StreamModulation = { readonly attention: Modulation; readonly mlp: Modulation }

export type ModulationChunks = {
  readonly double: readonly { readonly img: StreamModulation; readonly txt: StreamModulation }[]
  readonly single: readonly Modulation[]
  readonly final: { readonly shift: Value; readonly scale: Value }
}

/** Width of the table: how many values modulate one step. */
export const modulationSize = (params: FluxParams) =>
  (12 * params.doubleBlocks + 3 * params.singleBlocks + 2) * hiddenSize(params)

/** Cuts one row [modulationSize] of the table. */
export function cutModulation(ops: Ops, params: FluxParams, row: Value): ModulationChunks {
  const chunks = ops.split(row, modulationSize(params) / hiddenSize(params), 0)
  let taken = 0
  const next = () => chunks[taken++]!
  const modulation = (): Modulation => ({ shift: next(), scale: next(), gate: next() })
  const stream = (): StreamModulation => ({ attention: modulation(), mlp: modulation() })
  return {
    double: Array.from({ length: params.doubleBlocks }, () => ({ img: stream(), txt: stream() })),
    single: Array.from({ length: params.singleBlocks }, modulation),
    final: { shift: next(), scale: next() },
  }
}
