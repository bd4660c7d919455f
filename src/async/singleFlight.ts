/**
 * Single flight: concurrent calls for one key share one run of the work. It is aborted when all of
 * them have been canceled.
 */
import { FluxdError } from '../errors.js'

/** One of the calls that share a run. */
export type Waiter = {
  readonly signal: AbortSignal
  readonly report: (line: string) => void
  readonly onProgress: (done: number, total: number | undefined) => void
}

export type SingleFlight<T extends { readonly release: () => void }> = {
  /**
   * The result of `start`, which runs once for concurrent calls with the same `key`. Each call gets
   * its own share of the result; a later one gets the lines that were reported before it joined.
   * Throws `canceled` when the waiter's signal aborts.
   */
  readonly join: (key: string, waiter: Waiter, start: (all: Waiter) => Promise<T>) => Promise<T>
}

type Flight<T> = {
  readonly waiters: Set<Waiter>
  readonly lines: string[]
  readonly abort: () => void
  readonly result: Promise<T>
}

/** `share` makes another share of a result, with a release of its own. */
export function createSingleFlight<T extends { readonly release: () => void }>(
  share: (result: T) => T,
): SingleFlight<T> {
  const flights = new Map<string, Flight<T>>()

  function launch(key: string, start: (all: Waiter) => Promise<T>): Flight<T> {
    const waiters = new Set<Waiter>()
    const lines: string[] = []
    const aborting = new AbortController()
    const all: Waiter = {
      signal: aborting.signal,
      report(line) {
        lines.push(line)
        for (const waiter of waiters) waiter.report(line)
      },
      onProgress(done, total) {
        for (const waiter of waiters) waiter.onProgress(done, total)
      },
    }
    // An aborted run of this key may still be cleaning up. Its failure was for its own waiters.
    const before = flights.get(key)?.result.catch(() => undefined)
    const result = before ? before.then(() => start(all)) : start(all)
    const flight: Flight<T> = { waiters, lines, abort: () => aborting.abort(), result }
    flights.set(key, flight)
    const land = () => {
      if (flights.get(key) === flight) flights.delete(key)
    }
    result.then(land, land)
    return flight
  }

  async function join(key: string, waiter: Waiter, start: (all: Waiter) => Promise<T>): Promise<T> {
    if (waiter.signal.aborted) throw canceled()
    const current = flights.get(key)
    const flight = current && current.waiters.size > 0 ? current : launch(key, start)
    flight.waiters.add(waiter)
    for (const line of flight.lines) waiter.report(line)
    try {
      return share(await orAborted(flight.result, waiter.signal))
    } finally {
      flight.waiters.delete(waiter)
      if (flight.waiters.size === 0) {
        flight.abort()
        // Releases the run's own share. A failure has gone to the waiters already.
        flight.result.then(
          (result) => result.release(),
          () => undefined,
        )
      }
    }
  }

  return { join }
}

function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(canceled())
    signal.addEventListener('abort', stop, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}

const canceled = () => new FluxdError('canceled', 'The download was canceled')
