/** Paths that are refused before there is a route, as the surface that they were meant for refuses. */
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { sendProblem } from './cog/errors.js'
import { sendProblem as sendReplicateProblem } from './replicate/errors.js'

/** Characters between two slashes: an id of the Cog surface, each of its own percent-encoded. */
export const longestPart = 600

/** For fastify's `frameworkErrors`. */
export function refusePath(
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const send = request.url.startsWith('/v1/') ? sendReplicateProblem : sendProblem
  send(error.statusCode === 414 ? tooLong() : error, request, reply)
}

/** Without the path, which fastify would repeat. */
const tooLong = () =>
  Object.assign(
    new Error(`Expected at most ${longestPart} characters between two slashes of the path`),
    { statusCode: 414 },
  )
