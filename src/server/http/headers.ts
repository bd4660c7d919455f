/** The headers of every reply: what a browser may do with it, and which pages may read it. */
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import type { FastifyInstance } from 'fastify'
import { queueHeaders } from './queueHeaders.js'

/** Adds them to routes that are registered later; pages of `origins` may read what a client may. */
export async function addHeaders(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  await app.register(helmet, contentHeaders)
  await allowOrigins(app, origins)
}

/** Images may be shown anywhere; nothing here is a page but the documentation. */
const contentHeaders = {
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
