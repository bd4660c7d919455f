/**
 * The catalogue of errors that mean something to a caller. `code` crosses the engine's process
 * border and the wire; `status` is the HTTP status a route answers with.
 */
const statusByCode = {
  invalid_input: 422,
  not_supported: 422,
  checkpoint_invalid: 500,
  lora_invalid: 422,
  engine_failed: 500,
  not_ready: 503,
  busy: 409,
  not_found: 404,
  canceled: 499,
  config_invalid: 500,
  wrong_content_type: 415,
} as const

export type ErrorCode = keyof typeof statusByCode

/** An error whose message may be shown to the caller: what was expected, where, and what came. */
export class FluxdError extends Error {
  readonly status: number
  /** The field of `FluxInput` that is to blame, where it is one. */
  readonly field: string | undefined

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions & { readonly field?: string },
  ) {
    super(message, options)
    this.name = 'FluxdError'
    this.status = statusByCode[code]
    this.field = options?.field
  }
}

export const invalidInput = (message: string) => new FluxdError('invalid_input', message)

/** A field of the contract whose mode this version does not have; never silently ignored. */
export const notSupported = (field: string) =>
  new FluxdError('not_supported', `${field} is not supported yet`, { field })

/** A bad environment variable: found at start, and the process does not start. */
export const invalidConfig = (message: string) => new FluxdError('config_invalid', message)

/** A weight file or folder that is damaged, incomplete or not what its config says. */
export const invalidCheckpoint = (message: string, cause?: unknown) =>
  new FluxdError('checkpoint_invalid', message, { cause })

/** A LoRA file that is damaged, of another model, or of a kind that cannot be merged. */
export const invalidLora = (message: string, cause?: unknown) =>
  new FluxdError('lora_invalid', message, { cause })

/** The form in which an error crosses the engine's process border. */
export type ErrorRecord = { readonly code: ErrorCode; readonly message: string }

export function toErrorRecord(error: unknown): ErrorRecord {
  if (error instanceof FluxdError) return { code: error.code, message: error.message }
  return { code: 'engine_failed', message: error instanceof Error ? error.message : String(error) }
}

export const fromErrorRecord = (record: ErrorRecord) => new FluxdError(record.code, record.message)
