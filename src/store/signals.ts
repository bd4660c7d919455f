/**
 * Hints that something may have changed. They may be lost (between processes they travel by
 * notification), so a listener also looks at the store from time to time.
 */
export type Signal =
  /** A prediction waits for an executor. */
  | { readonly kind: 'work' }
  /** A prediction is over. */
  | { readonly kind: 'ended'; readonly id: string }

export type Signals = {
  readonly send: (signal: Signal) => void
  /** Returns how to stop. */
  readonly listen: (listener: (signal: Signal) => void) => () => void
}

/**
 * Signals within this process; a listener is called after the turn in which the signal was sent.
 */
export function createLocalSignals(): Signals {
  const listeners = new Set<(signal: Signal) => void>()
  return {
    send(signal) {
      setImmediate(() => {
        for (const listener of [...listeners]) listener(signal)
      })
    },
    listen(listener) {
      listeners.add(listener)
      return () => {
        listeners.delete(listener)
      }
    },
  }
}
