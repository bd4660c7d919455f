/**
 * Rate limits by key: its own rate for new predictions, five times that for everything else
 * (Replicate's 600 and 3000 a minute). Callers without a key have no limit.
 */
import rateLimit, { type FastifyRateLimitStore } from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { FluxdError } from '../../errors.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route makes a prediction. */
    readonly creates?: boolean
  }
}

const readsPerCreate = 5

export async function limitRates(app: FastifyInstance): Promise<void> {
  await app.register(rateLimit, {
    timeWindow: 60_000,
    store: RateLimitStore,
    // `ratelimit-remaining` and `ratelimit-reset`, as Replicate names them.
    enableDraftSpec: true,
    max: (request) => limitOf(request),
    keyGenerator: (request) => `${request.caller?.keyId} ${kindOf(request)}`,
    allowList: (request) => !request.caller || request.caller.ratePerMinute === 0,
    errorResponseBuilder: (_request, { ttl }) => throttled(Math.ceil(ttl / 1000)),
    addHeaders: { 'retry-after': true },
  })
}

const kindOf = ({ routeOptions }: FastifyRequest) =>
  routeOptions.config.creates ? 'create' : 'read'

const limitOf = (request: FastifyRequest) =>
  request.caller!.ratePerMinute * (kindOf(request) === 'create' ? 1 : readsPerCreate)

const throttled = (seconds: number) =>
  new FluxdError(
    'throttled',
    `Request was throttled. Expected available in ${seconds} second${seconds === 1 ? '' : 's'}.`,
  )

type Count = { readonly current: number; readonly endsAtMs: number }

/**
 * Counts requests in windows of time. The plugin's own store returns an object that it goes on to
 * change: of requests in one turn of the event loop each would see the count of all, and none would
 * pass when together they are more than allowed. A class, as the plugin makes it with `new`.
 */
class RateLimitStore implements FastifyRateLimitStore {
  readonly #counts = new Map<string, Count>()

  incr(
    key: string,
    callback: (error: null, result: { current: number; ttl: number }) => void,
    timeWindowMs: number,
  ): void {
    // The wall clock may be set back; then a used-up key would wait for hours.
    const nowMs = performance.now()
    const known = this.#counts.get(key)
    const isOver = known === undefined || known.endsAtMs <= nowMs
    const count: Count = isOver
      ? { current: 1, endsAtMs: nowMs + timeWindowMs }
      : { ...known, current: known.current + 1 }
    // There are no more of them than keys that were issued.
    this.#counts.set(key, count)
    callback(null, { current: count.current, ttl: Math.ceil(count.endsAtMs - nowMs) })
  }

  /** No route has a window of its own. */
  child(): RateLimitStore {
    return this
  }
}
