import type { FastifyRequest } from 'fastify'

/**
 * Where the clients of `request` reach this server: scheme and host, without a slash at the end.
 */
export type PublicUrl = (request: FastifyRequest) => string

/**
 * `configured` for every request, else the host that it was sent to. Forwarded headers count
 * where fastify trusts the proxy that sends them.
 */
export function createPublicUrl(configured?: string): PublicUrl {
  const fixed = configured?.replace(/\/+$/, '')
  // HTTP/1.0 knows no Host.
  return ({ protocol, host }) => fixed ?? `${protocol}://${host || 'localhost'}`
}
