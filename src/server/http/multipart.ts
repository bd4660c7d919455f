/**
 * Form data in place of JSON: the same object comes out. A part named `input[prompt]` or `prompt`
 * is a field of the input, one named `input` is the input as JSON, and the body's own names
 * (`version`, `webhook`, …) are the body's. Text becomes what the published schema says the field
 * is; a file becomes a data URI with the type of its bytes, as clients label files
 * application/octet-stream.
 */
import multipart, { type Multipart } from '@fastify/multipart'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { inputTypes, isRecord } from '../../contract/jsonSchema.js'
import { FluxdError } from '../../errors.js'
import { sniffType } from '../../net/mimeType.js'
import { maxBodyBytes, tooLarge } from './bodyParser.js'
import { HttpError } from './errors.js'
import { isWellFormed, refuseShape, refuseValue } from './jsonLimits.js'

type Body = Record<string, unknown>

/** Lets every route of `app` read forms; one that does not read it has an empty body. */
export function acceptForms(app: FastifyInstance): void {
  const limits = {
    parts: 64,
    fields: 60,
    files: 4,
    fileSize: maxBodyBytes,
    fieldSize: maxBodyBytes,
  }
  app.register(multipart, { limits: { ...limits, headerPairs: 20, fieldNameSize: 200 } })
}

/** A hook for `preValidation`: a form takes the place of the JSON body it stands for. */
export async function readForm(request: FastifyRequest): Promise<void> {
  if (!request.isMultipart()) return
  assertLength(Number(request.headers['content-length'] ?? 0))
  request.body = toBody(await readParts(request).catch(explainMalformed))
}

async function readParts(request: FastifyRequest) {
  const fields: (readonly [string, unknown])[] = []
  let length = 0
  for await (const part of request.parts()) {
    // busboy has no name for a part without one, whatever its type says.
    if ((part.fieldname as string | undefined) === undefined) throw nameless()
    const value = part.type === 'file' ? await readFile(part) : readText(part)
    length += typeof value === 'string' ? value.length : 0
    assertLength(length)
    if (value !== undefined) fields.push([part.fieldname, value])
  }
  return fields
}

/**
 * Throws `error` as the 400 of a malformed form, as the parser's errors carry no status of their
 * own; those of the disk, where files are kept meanwhile, are this server's.
 */
export function explainMalformed(error: unknown): never {
  if (!(error instanceof Error) || error instanceof HttpError || 'statusCode' in error) throw error
  if ('syscall' in error)
    throw 'code' in error && error.code === 'ENOSPC'
      ? new FluxdError('storage_full', 'There is no room on the disk for this upload', {
          cause: error,
        })
      : error
  const expected = 'Expected a well-formed form but received one that is malformed'
  throw new HttpError(400, `${expected} (${error.message})`, { cause: error })
}

/** A field that a browser left empty is none. */
async function readFile(part: Multipart & { type: 'file' }): Promise<string | undefined> {
  const bytes = await part.toBuffer()
  if (bytes.length === 0) return undefined
  return `data:${sniffType(bytes) ?? part.mimetype};base64,${bytes.toString('base64')}`
}

function readText(part: Multipart & { type: 'field' }): unknown {
  if (part.valueTruncated) throw tooLong()
  // One that says it is JSON comes parsed.
  const refusal = typeof part.value === 'object' ? refuseValue(part.value) : undefined
  if (refusal) throw tooLarge(refusal)
  return part.value
}

function assertLength(length: number): void {
  // Base64 is longer than what it stands for.
  if (length > (maxBodyBytes * 4) / 3) throw tooLong()
}

const nameless = () => new HttpError(400, 'Expected a form whose parts all have names')

const tooLong = () => tooLarge(`Expected a form of at most ${maxBodyBytes} bytes`)

/** The fields of a body besides its input; any other name is a field of the input. */
const bodyFields: readonly string[] = [
  'version',
  'webhook',
  'webhook_events_filter',
  'webhook_completed',
  'stream',
  'id',
  'created_at',
  'output_file_prefix',
]

function toBody(fields: readonly (readonly [string, unknown])[]): Body {
  const types = inputTypes()
  const body: Body = {}
  const input: Body = {}
  for (const [name, value] of fields) {
    const inner = /^input\[([^\]]+)\](?:\[\])?$/.exec(name)?.[1]
    if (name === 'input') Object.assign(input, parseJson(value))
    else if (inner === undefined && bodyFields.includes(bareName(name))) addField(body, name, value)
    else input[inner ?? name] = toTyped(value, types.get(inner ?? name))
  }
  return { ...body, input }
}

const bareName = (name: string) => name.replace(/\[\]$/, '')

function addField(body: Body, name: string, value: unknown): void {
  const key = bareName(name)
  if (key === 'stream') body[key] = toTyped(value, 'boolean')
  else if (key !== 'webhook_events_filter') body[key] = value
  else body[key] = [...((body[key] as unknown[]) ?? []), ...listEvents(value)]
}

/** Repeated, or several in one field, separated by commas. */
const listEvents = (value: unknown): unknown[] =>
  typeof value === 'string' ? value.split(',').map((event) => event.trim()) : [value].flat()

/**
 * Text that is not of its type stays text, so that validation can say so; an empty number is none.
 */
function toTyped(value: unknown, type: string | undefined): unknown {
  if (typeof value !== 'string') return value
  if (type === 'boolean') return value === 'true' ? true : value === 'false' ? false : orNone(value)
  if (type !== 'integer' && type !== 'number') return value
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : orNone(value)
}

const orNone = (text: string) => (text.trim() === '' ? undefined : text)

/** The object in a JSON field. Throws the 400 of anything else. */
function parseJson(value: unknown): object {
  if (isRecord(value) && isWellFormed(value)) return value
  const refusal = refuseShape(Buffer.from(String(value)))
  if (refusal) throw tooLarge(refusal)
  try {
    const parsed: unknown = JSON.parse(String(value))
    if (isRecord(parsed) && isWellFormed(parsed)) return parsed
  } catch {
    // Said below, with what was expected.
  }
  throw Object.assign(new Error('Expected the form field input to be a JSON object'), {
    statusCode: 400,
  })
}
