/**
 * An error as a reply of the Cog surface: `{ detail }`, a list where fields of the body are to
 * blame (422), else a sentence.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { toValidationErrors, type ValidationError } from '../../../contract/validation.js'
import { rememberRoutes } from '../allowedMethods.js'
import { type ErrorReply, prepareReply, toReply } from '../errors.js'

type Detail = string | readonly ValidationError[]

/** Handles unknown paths and methods of `app`. Must be called before routes are added. */
export function replyToUnknownPaths(app: FastifyInstance): void {
  const listMethods = rememberRoutes(app)
  app.setNotFoundHandler((request, reply) => {
    const methods = listMethods(request.url)
    if (methods.length === 0) return reply.code(404).send({ detail: 'Not Found' })
    return reply
      .code(405)
      .header('allow', methods.join(', '))
      .send({ detail: 'Method Not Allowed' })
  })
}

/** The error handler. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const outcome = toReply(error)
  prepareReply(error, outcome, request, reply)
  reply.send({ detail: describe(outcome) })
}

function describe(outcome: ErrorReply): Detail {
  switch (outcome.kind) {
    case 'invalid':
      return toValidationErrors(outcome.issues)
    case 'fault':
      return 'Internal Server Error'
    case 'refused': {
      const { code, field, detail } = outcome
      if (code === undefined || field === undefined) return detail
      return [{ loc: ['body', 'input', field], msg: detail, type: code }]
    }
    default:
      return outcome satisfies never
  }
}
