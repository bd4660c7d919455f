/**
 * What Cog calls setup: the default model is loaded before the first prediction asks for it.
 * A failure is told by the health check; the server goes on, as the other model may be sound.
 */
import { toErrorRecord } from '../../errors.js'
import type { WorkerPort } from '../../predictions/workerPort.js'

export type Setup = {
  readonly status: 'starting' | 'succeeded' | 'failed'
  readonly startedAt: Date
  readonly completedAt: Date | undefined
  readonly logs: string
  /** Whether one is installed. */
  readonly safetyChecker: boolean
}

export type SetupOptions = {
  readonly safetyChecker: boolean
  readonly onReady?: (() => void) | undefined
  readonly onFailure: (error: unknown) => void
}

export const noSafetyChecker = 'No safety checker is installed: no output is checked'

/** Begins to load; the returned function tells how far it is. */
export function startSetup(
  worker: Pick<WorkerPort, 'warmUp'>,
  { safetyChecker, onReady, onFailure }: SetupOptions,
): () => Setup {
  let setup: Setup = {
    status: 'starting',
    startedAt: new Date(),
    completedAt: undefined,
    logs: safetyChecker ? '' : `${noSafetyChecker}\n`,
    safetyChecker,
  }
  worker.warmUp().then(
    () => {
      setup = { ...setup, status: 'succeeded', completedAt: new Date() }
      onReady?.()
    },
    (error: unknown) => {
      const logs = `${setup.logs}${toErrorRecord(error).message}\n`
      setup = { ...setup, status: 'failed', completedAt: new Date(), logs }
      onFailure(error)
    },
  )
  return () => setup
}
