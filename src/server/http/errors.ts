/**
 * What an error means to a client, in one place: its status, and what of it may be said. The
 * surfaces only write it in their own form (cog/errors.ts, replicate/errors.ts).
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { type ErrorCode, FluxdError } from '../../errors.js'

/** A refusal that has no code of the catalogue: of a body, a path, a form. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options)
    this.name = 'HttpError'
  }
}

export type ErrorReply =
  /** Fields of the body are to blame; always a 422. */
  | { readonly kind: 'invalid'; readonly status: 422; readonly issues: readonly z.core.$ZodIssue[] }
  | {
      readonly kind: 'refused'
      readonly status: number
      readonly detail: string
      /** Of the catalogue. */
      readonly code?: ErrorCode | undefined
      /** The field of the input that is to blame, where it is one. */
      readonly field?: string | undefined
      readonly retryAfterSeconds?: number | undefined
    }
  /** Something is wrong on our side that no client can do anything about. */
  | { readonly kind: 'fault'; readonly status: number }

/** The reply that `error` stands for. */
export function toReply(error: unknown): ErrorReply {
  if (error instanceof z.ZodError) return { kind: 'invalid', status: 422, issues: error.issues }
  if (error instanceof FluxdError) {
    const { status, message: detail, code, field, retryAfterSeconds } = error
    return { kind: 'refused', status, detail, code, field, retryAfterSeconds }
  }
  const status = statusOf(error)
  return status < 500 && error instanceof Error
    ? { kind: 'refused', status, detail: error.message }
    : { kind: 'fault', status }
}

/** fastify's own errors (malformed JSON, too large, wrong content type) carry their status. */
function statusOf(error: unknown): number {
  if (error instanceof HttpError) return error.status
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined
  return typeof status === 'number' && status >= 400 ? status : 500
}

/** The part of a reply that both surfaces share: faults are logged, status and headers are set. */
export function prepareReply(
  error: unknown,
  { status, ...rest }: ErrorReply,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  if (status >= 500) request.log.error({ err: error }, 'request failed')
  // RFC 9110 §15.5.2.
  if (status === 401) reply.header('www-authenticate', 'Bearer')
  if ('retryAfterSeconds' in rest && rest.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(rest.retryAfterSeconds))
  reply.code(status)
}
