/**
 * Cancels what is not done at its deadline, waiting or running. The store knows the deadlines; a
 * timer waits for the next one.
 */
import type { Prediction } from '../../contract/prediction.js'
import type { PredictionStore } from '../../store/predictionStore.js'

export type Deadlines = {
  /** A prediction with this deadline was admitted. */
  readonly add: (deadline: Date) => void
  readonly stop: () => void
}

export type DeadlineOptions = {
  readonly store: Pick<PredictionStore, 'expire' | 'nextDeadline'>
  readonly onExpired: (prediction: Prediction) => void
  readonly onFault: (error: unknown) => void
}

// Longer delays make setTimeout fire at once.
const longestDelayMs = 2 ** 31 - 1
// A full disk may have room again.
const retryMs = 1000

export function startDeadlines({ store, onExpired, onFault }: DeadlineOptions): Deadlines {
  let timer: NodeJS.Timeout | undefined
  let dueAtMs = Number.POSITIVE_INFINITY
  let isStopped = false

  function arm(atMs: number): void {
    if (isStopped || atMs >= dueAtMs) return
    dueAtMs = atMs
    clearTimeout(timer)
    const delayMs = Math.min(Math.max(0, atMs - Date.now()), longestDelayMs)
    timer = setTimeout(run, delayMs).unref()
  }

  function run(): void {
    dueAtMs = Number.POSITIVE_INFINITY
    expire().catch((error: unknown) => {
      if (isStopped) return
      onFault(error)
      arm(Date.now() + retryMs)
    })
  }

  async function expire(): Promise<void> {
    for (const prediction of await store.expire(new Date())) onExpired(prediction)
    const next = await store.nextDeadline()
    if (next) arm(next.getTime())
  }

  run()
  return {
    add: (deadline) => arm(deadline.getTime()),
    stop() {
      isStopped = true
      clearTimeout(timer)
    },
  }
}
