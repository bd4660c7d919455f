/**
 * The form that brings a file: `content`, and `metadata`, `type` and `filename` that describe it.
 * Its clients send metadata as a file, as text, or as a field for each key (`metadata[key]`), and
 * call every buffer application/octet-stream (C-3.7).
 */
import { open } from 'node:fs/promises'
import type { FastifyRequest } from 'fastify'
import { FileMetadata } from '../../../contract/file.js'
import { isRecord } from '../../../contract/jsonSchema.js'
import { describeFields } from '../../../contract/problem.js'
import type { Files } from '../../../files/files.js'
import { sniffType } from '../../../net/mimeType.js'
import { maxBodyBytes } from '../bodyParser.js'
import { ProblemError, problem } from './errors.js'
import { maxTextBytes, readUploadParts, tooLarge } from './uploadParts.js'

export type Upload = {
  readonly name: string
  readonly contentType: string
  readonly metadata: Readonly<Record<string, unknown>>
}

const maxNameBytes = 255
const unknownType = 'application/octet-stream'

/**
 * Reads the form of `request`, and its file to `path`, which is the caller's to remove. Throws the
 * 413 of a file that is too large and the 422 of a form without one.
 */
export async function receiveUpload(
  request: FastifyRequest,
  path: string,
  files: Pick<Files, 'assertDiskSpace'>,
): Promise<Upload> {
  if (!request.isMultipart())
    throw problem(415, 'Unsupported Media Type', 'Expected a form (multipart/form-data)')
  // Before anything is written: the other parts are small.
  if (Number(request.headers['content-length'] ?? 0) > maxBodyBytes) throw tooLarge()
  const { content, texts } = await readUploadParts(request, path, files)
  if (!content) throw invalidField('', 'required', 'content is required')
  const type = checkType(texts.get('type') ?? content.mimetype)
  return {
    name: checkName(texts.get('filename') ?? content.filename),
    contentType: type === unknownType ? await sniffFile(path) : type,
    metadata: checkMetadata({ ...parseMetadata(texts.get('metadata')), ...collectKeys(texts) }),
  }
}

async function sniffFile(path: string): Promise<string> {
  const handle = await open(path)
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(16), 0, 16, 0)
    return sniffType(buffer.subarray(0, bytesRead)) ?? unknownType
  } finally {
    await handle.close()
  }
}

/** It becomes a header when the file is downloaded. */
function checkType(type: string): string {
  if (/^[\w.+-]{1,100}\/[\w.+-]{1,100}$/.test(type)) return type
  throw invalidField('type', 'format', 'Expected a media type such as image/png')
}

function checkName(name: string): string {
  if (Buffer.byteLength(name) <= maxNameBytes) return name
  throw invalidField(
    'filename',
    'string_lte',
    `Filename length must be at most ${maxNameBytes} bytes`,
  )
}

function parseMetadata(text: string | undefined): Upload['metadata'] {
  return text === undefined || text === '' ? {} : checkMetadata(parseJson(text))
}

function checkMetadata(value: unknown): Upload['metadata'] {
  const parsed = FileMetadata.safeParse(value)
  const isShort = () => JSON.stringify(parsed.data).length <= maxTextBytes
  if (parsed.success && isShort()) return parsed.data
  throw invalidField('metadata', 'invalid_type', 'Expected a JSON object of at most 64 KiB')
}

/** The metadata in fields such as `metadata[key]` and `metadata[outer][inner]`, all of it text. */
function collectKeys(texts: ReadonlyMap<string, string>): Upload['metadata'] {
  const metadata: Record<string, unknown> = {}
  for (const [name, text] of texts) {
    const keys = /^metadata((?:\[[^[\]]{1,200}\]){1,4})$/.exec(name)?.[1]?.slice(1, -1).split('][')
    if (keys) setIn(metadata, keys, text)
  }
  return metadata
}

function setIn(target: Record<string, unknown>, keys: readonly string[], value: unknown): void {
  const [key = '', ...rest] = keys
  if (key === '__proto__') return
  if (rest.length === 0) {
    target[key] = value
    return
  }
  const inner = isRecord(target[key]) ? target[key] : {}
  target[key] = inner
  setIn(inner, rest, value)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const invalidField = (field: string, type: string, description: string) =>
  new ProblemError(422, describeFields([{ type, field, description }]))
