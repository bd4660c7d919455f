/**
 * Authorization of requests. Every route needs the scope it names in `config.access`, `predict` by
 * default; `public` routes need none, as what they serve is not secret or has an unguessable path.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../../errors.js'
import type { Scope } from '../../store/apiKeyStore.js'
import type { Caller, Keys } from '../auth/apiKeys.js'
import { createFailedKeys } from '../auth/failedKeys.js'
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
 * that is open, to what a page of another site sends. An address that tries many keys gets a 429.
 */
export function guardRoutes(
  app: FastifyInstance,
  { keys, isOpen, assertNoForeignPage }: Access,
): void {
  const failedKeys = createFailedKeys()
  app.decorateRequest('caller')
  app.addHook('onRequest', async (request) => {
    const access = request.routeOptions.config.access ?? 'predict'
    // A browser asks what it may send before it sends a key.
    if (access === 'public' || request.is404 || request.method === 'OPTIONS') return
    const { authorization } = request.headers
    const succeed = failedKeys.begin(request.ip, authorization)
    request.caller = await keys.authenticate(authorization)
    if (!request.caller && !(await isOpen()))
      throw new FluxdError('unauthenticated', 'You did not pass a valid authentication token')
    succeed()
    if (request.caller) assertScope(request.caller, access)
    else assertNoForeignPage(request, access)
  })
}

function assertScope({ scopes }: Caller, needed: Scope): void {
  if (scopes.includes(needed) || scopes.includes('admin')) return
  throw new FluxdError(
    'forbidden',
    `Expected a key with scope ${needed} but this one has ${scopes.join(', ')}`,
  )
}
