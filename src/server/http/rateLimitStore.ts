/** Counts requests in windows of time, one after the other, for @fastify/rate-limit. */
import type { FastifyRateLimitStore } from '@fastify/rate-limit'

type Count = { readonly current: number; readonly endsAtMs: number }

/**
 * In place of the store that comes with the plugin: that one tells of a request by an object that it goes on
 * to count in. Of those that come in one turn of the event loop, each is then told of all, and none
 * passes when they are more than allowed together. A class, as the plugin makes it with `new`.
 */
export class RateCounts implements FastifyRateLimitStore {
  readonly #counts = new Map<string, Count>()

  incr(
    key: string,
    callback: (error: null, result: { current: number; ttl: number }) => void,
    timeWindowMs: number,
  ): void {
    const nowMs = Date.now()
    const known = this.#counts.get(key)
    const isOver = known === undefined || known.endsAtMs <= nowMs
    const count: Count = isOver
      ? { current: 1, endsAtMs: nowMs + timeWindowMs }
      : { ...known, current: known.current + 1 }
    // There are no more than keys that were issued.
    this.#counts.set(key, count)
    callback(null, { current: count.current, ttl: count.endsAtMs - nowMs })
  }

  /** No route has a window of its own. */
  child(): RateCounts {
    return this
  }
}
