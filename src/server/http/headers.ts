/** The headers of every reply: what a browser may do with it, and which pages may read it. */
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { QueueEstimate } from '../../predictions/estimate.js'

/** Adds them to routes that are registered later; pages of `origins` may read what a client may. */
export async function addHeaders(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  await app.register(helmet, helmetOptions)
  await allowOrigins(app, origins)
}

/** The headers of a reply that no route has sent: it is no page, and has the type that it says. */
export const contentHeaders = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
} as const

/** Pages of any site may show images; the only pages served here are the documentation. */
const helmetOptions = {
  contentSecurityPolicy: {
    useDefaults: false,
    directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
  },
  crossOriginResourcePolicy: { policy: 'cross-origin' },
  // Whether this host is to be reached by https only is its proxy's to say.
  strictTransportSecurity: false,
} as const

/** A page elsewhere may read what a client may: replies, and where a prediction is. */
async function allowOrigins(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  if (origins.length === 0) return
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'QUERY'],
    exposedHeaders: [
      'location',
      'retry-after',
      'preference-applied',
      ...Object.values(queueHeaders),
    ],
  })
}

/**
 * The queue position of an active prediction: the contract's bodies have no field for it.
 */
export const queueHeaders = {
  /** Predictions that come before it; 0 when it runs. */
  position: 'fluxd-queue-position',
  /** Whole seconds until it ends, where they can be estimated. */
  eta: 'fluxd-eta-seconds',
} as const

/** Sets the headers on a reply about the prediction; none for one that has ended. */
export function sendQueueHeaders(reply: FastifyReply, estimate: QueueEstimate | undefined): void {
  if (!estimate) return
  reply.header(queueHeaders.position, estimate.position)
  if (estimate.etaSeconds !== undefined)
    reply.header(queueHeaders.eta, Math.ceil(estimate.etaSeconds))
}
