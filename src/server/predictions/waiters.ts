/** Open replies that wait for the end of a prediction: one waiter each. */
import type { Signals } from '../../store/signals.js'

export type WaitOptions = { readonly timeoutMs?: number; readonly signal?: AbortSignal }

export type Waiters = {
  /**
   * Resolves at the end of the prediction, at the timeout, when `signal` aborts, or at `stop`.
   * `isOver` is asked after the waiter is in place, so that an end in between is not missed.
   */
  readonly wait: (id: string, options: WaitOptions, isOver: () => Promise<boolean>) => Promise<void>
  /** Ends all waiting, now and from now on. */
  readonly stop: () => void
}

// Signals may be lost: what is awaited is looked up from time to time.
const pollMs = 1000

export function createWaiters(signals: Signals): Waiters {
  const waiting = new Map<string, Set<() => void>>()
  const open = new Set<() => void>()
  let isStopped = false
  const stopListening = signals.listen((signal) => {
    if (signal.kind === 'ended')
      for (const resolve of [...(waiting.get(signal.id) ?? [])]) resolve()
  })

  function wait(id: string, { timeoutMs, signal }: WaitOptions, isOver: () => Promise<boolean>) {
    if (signal?.aborted || isStopped) return Promise.resolve()
    return new Promise<void>((resolve, reject) => {
      const waiters = waiting.get(id) ?? new Set()
      waiting.set(id, waiters.add(done))
      const timeout = timeoutMs === undefined ? undefined : setTimeout(done, timeoutMs)
      const poll = setInterval(look, pollMs)
      signal?.addEventListener('abort', done, { once: true })
      open.add(done)
      look()

      function look() {
        isOver().then(
          (over) => over && done(),
          (error: unknown) => {
            done()
            reject(error)
          },
        )
      }

      function done() {
        clearTimeout(timeout)
        clearInterval(poll)
        signal?.removeEventListener('abort', done)
        open.delete(done)
        waiters.delete(done)
        if (waiters.size === 0) waiting.delete(id)
        resolve()
      }
    })
  }

  return {
    wait,
    stop() {
      stopListening()
      isStopped = true
      for (const done of [...open]) done()
    },
  }
}
