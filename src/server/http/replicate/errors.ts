/** How an error becomes a problem of `/v1`. What is wrong on our side is not described. */
import { STATUS_CODES } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import {
  describeFields,
  type Problem,
  problemMimeType,
  toInputProblem,
} from '../../../contract/problem.js'
import { type ErrorCode, FluxdError } from '../../../errors.js'

/** A reply of `/v1` whose words are the contract's. */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    readonly body: Problem,
  ) {
    super(body.detail)
    this.name = 'ProblemError'
  }
}

export const problem = (status: number, title: string, detail: string) =>
  new ProblemError(status, { title, detail, status })

export const notFound = (detail = 'The requested resource could not be found.') =>
  problem(404, 'Not found', detail)

export const unknownVersion = () =>
  problem(
    422,
    'Invalid version or not permitted',
    "The specified version does not exist (or perhaps you don't have permission to use it?)",
  )

/** The error handler of `/v1`. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { status, body } = toProblem(error)
  if (status >= 500) request.log.error({ err: error }, 'request failed')
  if (error instanceof FluxdError && error.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(error.retryAfterSeconds))
  // Replicate's beta client repeats a POST after 408, 409 and 5xx unless it is told not to.
  if (request.method === 'POST') reply.header('x-should-retry', String(status === 429))
  // As bytes: fastify adds a charset to any other JSON.
  reply
    .code(status)
    .type(problemMimeType)
    .send(Buffer.from(JSON.stringify(body)))
}

export function toProblem(error: unknown): { status: number; body: Problem } {
  if (error instanceof ProblemError) return { status: error.status, body: error.body }
  if (error instanceof z.ZodError) return { status: 422, body: toInputProblem(error.issues) }
  if (error instanceof FluxdError && isTold(error)) return describeOurs(error)
  const status = statusOf(error)
  const detail =
    status < 500 && error instanceof Error ? error.message : 'Something went wrong here.'
  return describe(status, detail)
}

/** What the server lacks for a while is told; where it keeps what is not. */
const isTold = ({ status, code }: FluxdError) =>
  status < 500 || code === 'draining' || code === 'not_ready' || code === 'storage_full'

function describeOurs({ status, code, field, message }: FluxdError) {
  if (field === undefined) return describe(status, message, titles[code])
  const body = describeFields([{ type: code, field: `input.${field}`, description: message }])
  return { status, body }
}

const describe = (status: number, detail: string, title = STATUS_CODES[status] ?? 'Error') => ({
  status,
  body: { title, detail, status },
})

const titles: Readonly<Partial<Record<ErrorCode, string>>> = {
  unauthenticated: 'Unauthenticated',
  not_found: 'Not found',
}

/** fastify's own errors (malformed JSON, too large, wrong content type) carry their status. */
function statusOf(error: unknown): number {
  const status = error instanceof FluxdError ? error.status : foreignStatus(error)
  return status >= 400 ? status : 500
}

function foreignStatus(error: unknown): number {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined
  return typeof status === 'number' ? status : 500
}
