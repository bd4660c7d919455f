/** Who runs graphs: the dialect they are written in, and how they become sessions. */
import type { Graph } from './graph.js'
import type { Ops, Precision } from './ops.js'
import { portableOps } from './portable.js'
import { createSession, type Session, type SessionOptions } from './session.js'

/** A graph, and the inner values that its session returns beside the outputs. */
export type Model = { readonly graph: Graph; readonly taps?: readonly string[] }

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

/**
 * Makes every weight the checkpoint's own with these changes and no others, in place: sessions see
 * it in their next run. So do other sessions that share a weight, until it is changed again; the
 * same map again costs nothing.
 */
export type Adapt = (changes: LowRankChanges) => Promise<void>

export type Backend = {
  /** Whether sessions copy all their weights into the memory of a device, which is scarce. */
  readonly copiesWeights?: boolean
  /** The words in which `graph` is to be written. */
  readonly ops: (graph: Graph, precision?: Precision) => Ops
  /** A session of each model; weights that the models have in common are held once. */
  readonly createSessions: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<Readonly<Record<Name, Session>>>
  /** The same, over weights that can be changed; absent where each session has its own. */
  readonly createAdaptable?: <Name extends string>(
    models: Readonly<Record<Name, Model>>,
    options: SessionOptions,
  ) => Promise<{ readonly sessions: Readonly<Record<Name, Session>>; readonly adapt: Adapt }>
}

/** onnxruntime-node on the CPU, in float32. */
export const portableBackend: Backend = {
  ops: portableOps,
  createSessions: (models, options) =>
    forEachModel(models, ({ graph, taps }) => createSession(graph.encode(taps), options)),
}

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
