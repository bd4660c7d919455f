/** Headers of a request that are refused rather than interpreted, before its body is read. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { wrongType } from './bodyParser.js'
import { HttpError } from './errors.js'

/** Refuses more than one Host with a 400 (RFC 9112 §3.2) and a compressed body with a 415. */
export function checkRequestHeaders(app: FastifyInstance): void {
  // After the hooks that add headers to replies and ask for a key.
  app.addHook('preParsing', async (request, reply) => {
    assertOneHost(request)
    const encoding = request.headers['content-encoding'] ?? 'identity'
    if (encoding.toLowerCase() === 'identity') return
    // RFC 9110 §15.5.16: what would be accepted instead.
    reply.header('accept-encoding', 'identity')
    throw wrongType(`Expected a body without content-encoding but received ${encoding}`)
  })
}

/** Node keeps the first one, and a proxy in front may have chosen the last. */
function assertOneHost({ raw }: FastifyRequest): void {
  const names = raw.rawHeaders.filter((_, index) => index % 2 === 0)
  const hosts = names.filter((name) => name.toLowerCase() === 'host').length
  if (hosts > 1) throw new HttpError(400, `Expected one Host header but received ${hosts}`)
}
