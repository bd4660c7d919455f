/**
 * How an error becomes a reply on the Cog surface: `{ detail }`, a list where fields of the body
 * are to blame (422), else a sentence. What is wrong on our side is not described.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { toValidationErrors, type ValidationError } from '../../../contract/validation.js'
import { FluxdError } from '../../../errors.js'
import { rememberRoutes } from '../allowedMethods.js'

export type Problem = {
  readonly status: number
  readonly body: { readonly detail: string | readonly ValidationError[] }
}

/** Every error of `app`, and what it does not know; call it before routes are added. */
export function replyToErrors(app: FastifyInstance): void {
  const listMethods = rememberRoutes(app)
  app.setErrorHandler(sendProblem)
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
  const { status, body } = toProblem(error)
  if (status >= 500) request.log.error({ err: error }, 'request failed')
  if (error instanceof FluxdError && error.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(error.retryAfterSeconds))
  reply.code(status).send(body)
}

export function toProblem(error: unknown): Problem {
  if (error instanceof z.ZodError)
    return { status: 422, body: { detail: toValidationErrors(error.issues) } }
  if (error instanceof FluxdError) return describeOurs(error)
  const status = statusOf(error)
  return status < 500 && error instanceof Error
    ? { status, body: { detail: error.message } }
    : { status, body: { detail: 'Internal Server Error' } }
}

function describeOurs({ status, code, field, message }: FluxdError): Problem {
  if (field === undefined) return { status, body: { detail: message } }
  const fault = { loc: ['body', 'input', field], msg: message, type: code }
  return { status, body: { detail: [fault] } }
}

/** fastify's own errors (malformed JSON, too large, wrong content type) carry their status. */
function statusOf(error: unknown): number {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined
  return typeof status === 'number' && status >= 400 ? status : 500
}
