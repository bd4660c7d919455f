/** First come, first served, one at a time. */
import { FluxdError } from '../errors.js'

export type Queue = {
  /** Runs `task` when its turn comes; a task whose signal aborts while it waits never starts. */
  readonly enqueue: <T>(task: () => Promise<T>, signal: AbortSignal) => Promise<T>
}

export function createQueue(): Queue {
  let last: Promise<unknown> = Promise.resolve()

  function enqueue<T>(task: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const turn = last.then(() => {
      if (signal.aborted) throw new FluxdError('canceled', 'Canceled while waiting')
      return task()
    })
    last = turn.catch(() => undefined)
    return turn
  }

  return { enqueue }
}
