/** What turns graphs into sessions on a device, and the operators that it has for them. */

import { elementCount, storedBytes } from '../../../safetensors/tensor.js'
import type { Graph } from '../onnx/graph.js'
import type { Ops, Precision } from '../ops/ops.js'
import { portableOps } from '../ops/portable.js'
import { type ImageDType, imageOps } from '../ops/vae.js'
import { createSession, type Session, type SessionOptions } from './ort/session.js'

export type Model = {
  readonly graph: Graph
  /** The inner values that its session returns in addition to the outputs. */
  readonly debugOutputs?: readonly string[]
  /** Whether many runs of the same shapes follow each other. */
  readonly isRepeated?: boolean
}

/** (up ⊙ scale)·down, in float32: up [out, rank], down [rank, in], scale [rank]. */
export type LowRank = {
  readonly rank: number
  readonly up: Float32Array
  readonly down: Float32Array
  readonly scale: Float32Array
}

/** The files and scales of a set of LoRAs, in order: equal keys mean equal weights. */
export type LoraSetKey = string & { readonly __brand: 'LoraSetKey' }

/** What a set of LoRAs adds to a network's matrices. */
export type LowRankChanges = {
  readonly key: LoraSetKey
  /** The files alone: sets of equal files have equal factors, up to their scales. */
  readonly files: string
  /** By the names of the matrices' slices of the checkpoint. */
  readonly matrices: ReadonlyMap<string, LowRank>
}

export const unchanged: LowRankChanges = {
  key: '' as LoraSetKey,
  files: '',
  matrices: new Map(),
}

/** Weights of sessions that LoRAs can be merged into, in place. */
export type LoraWeights = {
  /** The set that is merged into the weights; undefined while it changes and after a failure. */
  readonly active: () => LoraSetKey | undefined
  /**
   * Makes every weight the checkpoint's own with these changes and no others, in place: sessions
   * compute with it from their next run on, and none may be running. The same holds for other
   * sessions that share a weight. Does nothing where the set is active already.
   */
  readonly activate: (changes: LowRankChanges) => Promise<void>
  /**
   * Uploads the factors of another set, also while sessions run: activating it then uploads
   * nothing, and keeps the factors of the set that was active staged. One set can be staged.
   */
  readonly stage: (changes: LowRankChanges) => Promise<void>
}

/** Networks whose weights can be changed, and the values that every change starts from. */
export type Adaptable = LoraWeights & { readonly base: WeightBase }

/** A copy of the unmerged weights on the device: with it, merges are much faster. */
export type WeightBase = {
  readonly bytes: number
  readonly keep: () => Promise<void>
  readonly drop: () => Promise<void>
}

export type Backend = {
  /** What the weights of sessions over these graphs take of the device's memory. */
  readonly weightBytes: (graphs: readonly Graph[], options: SessionOptions) => number
  /** The operators that `graph` is built from. */
  readonly ops: (graph: Graph, precision?: Precision) => Ops
  /** The operators of networks over images, which compute in `dtype`. */
  readonly imageOps: (graph: Graph, dtype: ImageDType) => Ops
  /** A session of each model; weights that the models have in common are held once. */
  readonly createSessions: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<Readonly<Record<Name, Session>>>
  /** The same over weights that LoRAs can be merged into; absent where sessions have their own. */
  readonly createAdaptable?: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<{
    readonly sessions: Readonly<Record<Name, Session>>
    readonly adaptable: Adaptable
  }>
}

/** onnxruntime-node on the CPU, in float32. */
export const portableBackend: Backend = {
  ops: portableOps,
  imageOps: (graph, dtype) => imageOps(graph, { dtype, groupNorm: 'chain' }),
  // Weights that stay mapped take no memory that others could not have.
  weightBytes: (graphs, { widenWeights }) =>
    widenWeights === 'run' ? 0 : sumOver(graphs, ({ dims }) => 4 * elementCount(dims)),
  createSessions: (models, options) =>
    forEachModel(models, ({ graph, debugOutputs }) =>
      createSession(graph.encode(debugOutputs), options),
    ),
}

/** As `Backend.weightBytes`, of sessions that copy weights as their graphs hold them. */
export const copiedBytes: Backend['weightBytes'] = (graphs) =>
  sumOver(graphs, ({ dtype, dims }) => storedBytes[dtype] * elementCount(dims))

type Tensors = ReturnType<Graph['initializers']>

const sumOver = (graphs: readonly Graph[], bytesOf: (tensor: Tensors[number]) => number) =>
  graphs.flatMap((graph) => graph.initializers()).reduce((sum, tensor) => sum + bytesOf(tensor), 0)

/** What `open` makes of each model, one after the other; if one fails, the others are released. */
export async function forEachModel<Name extends string>(
  models: Readonly<Record<Name, Model>>,
  open: (model: Model) => Promise<Session>,
): Promise<Record<Name, Session>> {
  const sessions: Partial<Record<Name, Session>> = {}
  try {
    for (const name of Object.keys(models) as Name[]) sessions[name] = await open(models[name])
    return sessions as Record<Name, Session>
  } catch (error) {
    for (const session of Object.values<Session>(sessions as Record<Name, Session>))
      await session.release()
    throw error
  }
}
