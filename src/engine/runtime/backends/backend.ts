/** Who runs graphs: the dialect they are written in, and how they become sessions. */

import { elementCount, storedBytes } from '../../../safetensors/tensor.js'
import type { Graph } from '../onnx/graph.js'
import type { Ops, Precision } from '../ops/ops.js'
import { portableOps } from '../ops/portable.js'
import { type PictureDType, pictureOps } from '../ops/vae.js'
import { createSession, type Session, type SessionOptions } from './ort/session.js'

export type Model = {
  readonly graph: Graph
  /** The inner values that its session returns beside the outputs. */
  readonly taps?: readonly string[]
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

/** What is added to matrices, by the names of their slices of the checkpoint. */
export type LowRankChanges = ReadonlyMap<string, LowRank>

export const unchanged: LowRankChanges = new Map()

/** What can be done to weights that sessions use. */
export type Adaptation = {
  /**
   * Makes every weight the checkpoint's own with these changes and no others, in place: sessions
   * see it in their next run, and none may be running. So do other sessions that share a weight,
   * until it is changed again; the same map again costs nothing.
   */
  readonly adapt: (changes: LowRankChanges) => Promise<void>
  /**
   * Uploads changes beside those in use, also while sessions run: `adapt` to the same map then uploads
   * nothing, and leaves those that were in use in their place. There is room for one set.
   */
  readonly stage: (changes: LowRankChanges) => Promise<void>
}

/** Networks whose weights can be changed, and the values that every change starts from. */
export type Adaptable = Adaptation & { readonly base: WeightBase }

/** A copy of the weights as they are without changes: with it, changes come much faster. */
export type WeightBase = {
  readonly bytes: number
  readonly keep: () => Promise<void>
  readonly drop: () => Promise<void>
}

export type Backend = {
  /** What the weights of sessions over these graphs take of the device's memory. */
  readonly weightBytes: (graphs: readonly Graph[], options: SessionOptions) => number
  /** The words in which `graph` is to be written. */
  readonly ops: (graph: Graph, precision?: Precision) => Ops
  /** The same for networks over pictures, and what they compute in. */
  readonly pictureOps: (graph: Graph, dtype: PictureDType) => Ops
  /** A session of each model; weights that the models have in common are held once. */
  readonly createSessions: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<Readonly<Record<Name, Session>>>
  /** The same, over weights that can be changed; absent where each session has its own. */
  readonly createAdaptable?: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<Adaptable & { readonly sessions: Readonly<Record<Name, Session>> }>
}

/** onnxruntime-node on the CPU, in float32. */
export const portableBackend: Backend = {
  ops: portableOps,
  pictureOps: (graph, dtype) => pictureOps(graph, { dtype, groupNorm: 'chain' }),
  // Weights that stay mapped take no memory that others could not have.
  weightBytes: (graphs, { widenWeights }) =>
    widenWeights === 'run' ? 0 : sumOver(graphs, ({ dims }) => 4 * elementCount(dims)),
  createSessions: (models, options) =>
    forEachModel(models, ({ graph, taps }) => createSession(graph.encode(taps), options)),
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
