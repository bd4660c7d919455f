/**
 * Who may use which route. Every route needs the scope it names in `config.access`, `predict` by
 * default; `public` routes need none, as what they serve is not secret or has an unguessable path.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../../errors.js'
import type { Scope } from '../../store/apiKeyStore.js'
import type { Caller, Keys } from '../auth/apiKeys.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly access?: Scope | 'public'
  }
  interface FastifyRequest {
    /** Undefined where nobody needs a key. */
    caller: Caller | undefined
  }
}

/** Answers 401 without a key that is valid and 403 to one that lacks the scope; `isOpen` lets everybody in. */
export function guardRoutes(
  app: FastifyInstance,
  keys: Keys,
  isOpen: () => Promise<boolean>,
): void {
  app.decorateRequest('caller')
  app.addHook('onRequest', async (request) => {
    const access = request.routeOptions.config.access ?? 'predict'
    // A browser asks what it may send before it sends a key.
    if (access === 'public' || request.is404 || request.method === 'OPTIONS') return
    request.caller = await keys.authenticate(request.headers.authorization)
    if (request.caller) expectScope(request.caller, access)
    else if (!(await isOpen()))
      throw new FluxdError('unauthenticated', 'You did not pass a valid authentication token')
  })
}

function expectScope({ scopes }: Caller, needed: Scope): void {
  if (scopes.includes(needed) || scopes.includes('admin')) return
  throw new FluxdError(
    'forbidden',
    `Expected a key with scope ${needed} but this one has ${scopes.join(', ')}`,
  )
}
