/**
 * The errors of fluxd, in one class with codes. `code` crosses the engine's process border and the
 * wire; `status` is the HTTP status of the reply.
 */
import type { z } from 'zod'

const statusByCode = {
  invalid_input: 422,
  unsafe_output: 422,
  not_supported: 422,
  checkpoint_invalid: 500,
  lora_invalid: 422,
  engine_failed: 500,
  engine_died: 500,
  not_ready: 503,
  unauthenticated: 401,
  forbidden: 403,
  throttled: 429,
  busy: 409,
  conflict: 409,
  queue_full: 429,
  draining: 503,
  storage_full: 507,
  store_damaged: 500,
  not_found: 404,
  canceled: 499,
  config_invalid: 500,
  wrong_content_type: 415,
} as const

export type ErrorCode = keyof typeof statusByCode

/** An error whose message may be shown to the client: what was expected, where, and what came. */
export class FluxdError extends Error {
  readonly status: number
  /** The field of `FluxInput` that is wrong, if it is one. */
  readonly field: string | undefined
  /** When to try again, if known: the reply's Retry-After. */
  readonly retryAfterSeconds: number | undefined

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions & { readonly field?: string; readonly retryAfterSeconds?: number },
  ) {
    super(message, options)
    this.name = 'FluxdError'
    this.status = statusByCode[code]
    this.field = options?.field
    this.retryAfterSeconds = options?.retryAfterSeconds
  }
}

export const invalidInput = (message: string) => new FluxdError('invalid_input', message)

/** A bad setting: found at the start, which it ends. */
export const invalidConfig = (message: string) => new FluxdError('config_invalid', message)

/** A weight file or folder that is damaged, incomplete or not what its config says. */
export const invalidCheckpoint = (message: string, cause?: unknown) =>
  new FluxdError('checkpoint_invalid', message, { cause })

/** A LoRA file that is damaged, of another model, or of a kind that cannot be merged. */
export const invalidLora = (message: string, cause?: unknown) =>
  new FluxdError('lora_invalid', message, { cause })

/** Whether `error` has one of these codes: Node's, such as `ENOENT`, or a FluxdError's. */
export const hasCode = (error: unknown, ...codes: readonly string[]): boolean =>
  codes.includes(codeOf(error))

/** The code of one of Node's errors, for a message; of any other error its message. */
export function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}

/** The first fault that a schema finds, with its path: `shape.0: Too small…`. */
export function firstFault({ issues }: Pick<z.ZodError, 'issues'>): string {
  const { path, message } = issues[0]!
  return path.length > 0 ? `${path.join('.')}: ${message}` : message
}

/** An error as it crosses the engine's process border. */
export type ErrorRecord = { readonly code: ErrorCode; readonly message: string }

export function toErrorRecord(error: unknown): ErrorRecord {
  if (error instanceof FluxdError) return { code: error.code, message: error.message }
  return { code: 'engine_failed', message: error instanceof Error ? error.message : String(error) }
}

export const fromErrorRecord = (record: ErrorRecord) => new FluxdError(record.code, record.message)
