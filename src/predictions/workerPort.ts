/** What a server knows of the worker in its process. */
import type { PlanDraft } from '../plan/planGeneration.js'
import type { Feed } from './feed.js'
import type { Throughput } from './throughput.js'

/** `failing`: its process does not start, and is tried again from time to time. */
export type EngineStatus = 'starting' | 'ready' | 'busy' | 'restarting' | 'failing' | 'stopped'

export type ExecutorStatus = {
  /** Names it in the store, in metrics and in logs. */
  readonly name: string
  /** The GPU that it computes on; absent on the CPU. */
  readonly gpu?: number | undefined
  readonly engine: EngineStatus
  /** The engine's process; another one after a restart. */
  readonly pid?: number | undefined
  /** The prediction that runs. */
  readonly running?: string | undefined
  /** Predictions that it holds ahead. */
  readonly ahead: readonly string[]
}

export type WorkerPort = {
  readonly feed: Feed
  readonly throughput: Pick<Throughput, 'estimate'>
  readonly executors: () => readonly ExecutorStatus[]
  /** Loads the default model on every executor; throws what is wrong with its checkpoint. */
  readonly warmUp: () => Promise<void>
  /**
   * Throws `not_supported`, with the numbers, where a plan can never fit into a device's memory.
   */
  readonly assertFits: (draft: PlanDraft) => void
  /** Claims nothing more; resolves when what runs is done. What is held ahead waits again. */
  readonly drain: () => Promise<void>
  /** As `drain`, at once: what runs is interrupted and runs again at the next start. */
  readonly stop: () => Promise<void>
}

/** The state of all engines as one: the best of them, and `busy` only when none is free. */
export function combineStatus(executors: readonly Pick<ExecutorStatus, 'engine'>[]): EngineStatus {
  const order: readonly EngineStatus[] = [
    'ready',
    'busy',
    'restarting',
    'starting',
    'failing',
    'stopped',
  ]
  const found = order.find((status) => executors.some(({ engine }) => engine === status))
  return found ?? 'stopped'
}
