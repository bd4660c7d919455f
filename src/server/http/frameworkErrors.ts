/**
 * Errors that come before there is a route, as the surface that the path belongs to writes them.
 */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { sendProblem } from './cog/errors.js'
import { HttpError } from './errors.js'
import { contentHeaders } from './headers.js'
import { sendProblem as sendReplicateProblem } from './replicate/errors.js'

/** Characters between two slashes: an id of the Cog surface, each of its own percent-encoded. */
export const longestPart = 600

/** For fastify's `frameworkErrors`. */
export function refusePath(
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  // No hook runs before such a reply.
  reply.headers(contentHeaders)
  const send = request.url.startsWith('/v1/') ? sendReplicateProblem : sendProblem
  send(error.statusCode === 414 ? tooLong() : error, request, reply)
}

/** Without the path, which fastify would repeat. */
const tooLong = () =>
  new HttpError(414, `Expected at most ${longestPart} characters between two slashes of the path`)
