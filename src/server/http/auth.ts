/**
 * Authorization of requests. Every route needs the scope it names in `config.access`, `predict` by
 * default; `public` routes need none, as what they serve is not secret or has an unguessable path.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../../errors.js'
import type { Scope } from '../../store/apiKeyStore.js'
import type { Caller, Keys } from '../auth/apiKeys.js'
import type { AssertNoForeignPage } from './originCheck.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly access?: Scope | 'public'
  }
  interface FastifyRequest {
    /** Undefined where no key is needed. */
    caller: Caller | undefined
  }
}

export type Access = {
  readonly keys: Keys
  /** Whether requests without a key are served. */
  readonly isOpen: () => Promise<boolean>
  readonly assertNoForeignPage: AssertNoForeignPage
}

/**
 * Responds with 401 without a valid key, and with 403 to a key that lacks the scope or, on a server
 * that is open, to what a page of another site sends.
 */
export function guardRoutes(
  app: FastifyInstance,
  { keys, isOpen, assertNoForeignPage }: Access,
): void {
  app.decorateRequest('caller')
  app.addHook('onRequest', async (request) => {
    const access = request.routeOptions.config.access ?? 'predict'
    // A browser asks what it may send before it sends a key.
    if (access === 'public' || request.is404 || request.method === 'OPTIONS') return
    request.caller = await keys.authenticate(request.headers.authorization)
    if (request.caller) return assertScope(request.caller, access)
    if (!(await isOpen()))
      throw new FluxdError('unauthenticated', 'You did not pass a valid authentication token')
    assertNoForeignPage(request, access)
  })
}

function assertScope({ scopes }: Caller, needed: Scope): void {
  if (scopes.includes(needed) || scopes.includes('admin')) return
  throw new FluxdError(
    'forbidden',
    `Expected a key with scope ${needed} but this one has ${scopes.join(', ')}`,
  )
}
