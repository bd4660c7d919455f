/**
 * How often a key may ask: its own rate for new predictions, five times that for everything else
 * (Replicate's 600 and 3000 a minute). Who needs no key has no limit.
 */
import rateLimit from '@fastify/rate-limit'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { FluxdError } from '../../errors.js'
import { RateCounts } from './rateLimitStore.js'

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
    store: RateCounts,
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
