/**
 * A set of LoRAs as one low-rank product per tensor, for merges on the device:
 *
 *     W' = W + (up ⊙ scale)·down
 *
 * The LoRAs' ranks are concatenated, up [out, Σr] and down [Σr, in]; `up` includes the factor
 * alpha/rank of each file.
 */

import type { TensorSlice } from '../../../safetensors/read.js'
import type { FloatTensor } from '../../../safetensors/tensor.js'
import type { LowRank } from '../../runtime/backends/backend.js'
import { createSession } from '../../runtime/backends/ort/session.js'
import { createGraph, type Graph, type Value } from '../../runtime/onnx/graph.js'
import { widen } from '../../runtime/ops/dequantize.js'
import type { Change, Delta } from '../format/adapter.js'
import { groupBySize, maxBytesAtOnce } from './chunks.js'
import type { MergeTarget } from './mergeGraph.js'

/** The factors of a matrix, and which columns of `up` each LoRA has. */
type MatrixFactors = Pick<LowRank, 'up' | 'down'> & {
  /** The matrix's slice of the checkpoint. */
  readonly name: string
  readonly ranks: readonly { readonly lora: number; readonly rank: number }[]
}

/** The factors of a set of LoRAs, for any scales. */
export type LoraFactors = readonly MatrixFactors[]

type LowRankDelta = Extract<Change, { kind: 'lowRank' }>

/** Whether there are tensors, and every LoRA changes them by products of low rank only. */
export const areLowRank = (targets: readonly MergeTarget[]) =>
  targets.length > 0 && targets.every(({ deltas }) => deltas.flat().every(isLowRank))

const isLowRank = (delta: Delta): delta is LowRankDelta => delta.kind === 'lowRank'

/** Reads the factors of LoRAs from their files. */
export async function readLoraFactors(
  targets: readonly MergeTarget[],
  threads: number,
): Promise<LoraFactors> {
  const factors: MatrixFactors[] = []
  for (const group of groupBySize(targets, storedBytes, maxBytesAtOnce))
    factors.push(...(await readFactors(group, threads)))
  return factors
}

/** The product of every matrix, by its name, with one scale per LoRA; no factor is copied. */
export const scaleFactors = (factors: LoraFactors, scales: readonly number[]) =>
  new Map(
    factors.map(({ name, ranks, up, down }): [string, LowRank] => {
      const scale = Float32Array.from(
        ranks.flatMap(({ lora, rank }) => Array(rank).fill(scales[lora])),
      )
      return [name, { rank: scale.length, up, down, scale }]
    }),
  )

async function readFactors(
  targets: readonly MergeTarget[],
  threads: number,
): Promise<MatrixFactors[]> {
  const options = { threads, widenWeights: 'run', arena: false } as const
  const session = await createSession(factorGraph(targets), options)
  const values = await session.run({}).finally(() => session.release())
  const dataOf = (name: string) => (values[name] as FloatTensor).data
  return targets.map(({ name, base, deltas }) => ({
    name: base.name,
    ranks: ranksOf(deltas),
    up: dataOf(`${name} up`),
    down: dataOf(`${name} down`),
  }))
}

const storedBytes = ({ deltas }: MergeTarget) =>
  factorsOf(deltas).reduce(
    (sum, { change: { up, down } }) => sum + up.byteLength + down.byteLength,
    0,
  )

const ranksOf = (deltas: MergeTarget['deltas']) =>
  factorsOf(deltas).map(({ change, lora }) => ({ lora, rank: change.down.shape[0]! }))

/** → every target's up [out, Σr] and down [Σr, in]. */
function factorGraph(targets: readonly MergeTarget[]): Uint8Array {
  const graph = createGraph('factors')
  for (const { name, deltas, base } of targets) {
    const own = factorsOf(deltas)
    const ups = own.map(({ change, lora }) =>
      graph.node('Mul', [read(graph, change.up, lora), graph.floats([change.factor])]),
    )
    const downs = own.map(({ change, lora }) => read(graph, change.down, lora))
    graph.output(`${name} up`, concat(graph, ups, 1), 'F32', [base.shape[0]!, 'rank'])
    graph.output(`${name} down`, concat(graph, downs, 0), 'F32', ['rank', base.shape[1]!])
  }
  return graph.encode()
}

const factorsOf = (deltas: MergeTarget['deltas']) =>
  deltas.flatMap((own, lora) => own.filter(isLowRank).map((change) => ({ change, lora })))

// Two files may use one name, so the file is part of an initializer's name here.
const read = (graph: Graph, slice: TensorSlice, lora: number): Value =>
  widen(graph, { ...slice, name: `lora${lora}/${slice.name}` })

const concat = (graph: Graph, parts: readonly Value[], axis: number): Value =>
  graph.node('Concat', parts, { attributes: { axis } })
