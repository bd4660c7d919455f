/** An error as a problem (RFC 7807) of `/v1`, in the words of Replicate. */
import { STATUS_CODES } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import {
  describeFields,
  type Problem,
  problemMimeType,
  toInputProblem,
} from '../../../contract/problem.js'
import type { ErrorCode } from '../../../errors.js'
import { type ErrorReply, prepareReply, toReply } from '../errors.js'

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
  prepareReply(error, { ...toReply(error), status } as ErrorReply, request, reply)
  // Replicate's beta client repeats a POST after 408, 409 and 5xx unless this header is false.
  if (request.method === 'POST') reply.header('x-should-retry', String(status === 429))
  // As bytes: fastify adds a charset to any other JSON.
  reply.type(problemMimeType).send(Buffer.from(JSON.stringify(body)))
}

export function toProblem(error: unknown): { status: number; body: Problem } {
  if (error instanceof ProblemError) return { status: error.status, body: error.body }
  const outcome = toReply(error)
  switch (outcome.kind) {
    case 'invalid':
      return { status: 422, body: toInputProblem(outcome.issues) }
    case 'fault':
      return describe(outcome.status, hidden)
    case 'refused':
      return describeRefusal(outcome)
    default:
      return outcome satisfies never
  }
}

function describeRefusal({ status, code, field, detail }: Refusal) {
  if (status >= 500 && (code === undefined || !temporary.includes(code)))
    return describe(status, hidden)
  if (code === undefined || field === undefined)
    return describe(status, detail, code && titles[code])
  const body = describeFields([{ type: code, field: `input.${field}`, description: detail }])
  return { status, body }
}

type Refusal = Extract<ErrorReply, { kind: 'refused' }>

const hidden = 'Something went wrong here.'

/** Faults of this server that pass: their detail is sent, as clients may try again. */
const temporary: readonly ErrorCode[] = ['draining', 'not_ready', 'storage_full']

const describe = (status: number, detail: string, title = STATUS_CODES[status] ?? 'Error') => ({
  status,
  body: { title, detail, status },
})

const titles: Readonly<Partial<Record<ErrorCode, string>>> = {
  unauthenticated: 'Unauthenticated',
  not_found: 'Not found',
}
