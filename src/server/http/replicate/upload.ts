/**
 * The form that brings a file: `content`, and what its sender says of it in `metadata`, `type` and
 * `filename`. One client sends metadata as a file and calls every buffer application/octet-stream,
 * another sends it as text or not at all, so nothing is taken at its word (C-3.7).
 */
import { open } from 'node:fs/promises'
import type { Multipart, MultipartFields, SavedMultipartFile } from '@fastify/multipart'
import type { FastifyRequest } from 'fastify'
import { FileMetadata } from '../../../contract/file.js'
import { describeFields } from '../../../contract/problem.js'
import { sniffType } from '../../../net/mimeType.js'
import { maxBodyBytes } from '../bodyParser.js'
import { refuseValue } from '../jsonLimits.js'
import { explainMalformed } from '../multipart.js'
import { ProblemError, problem } from './errors.js'

export type Upload = {
  readonly name: string
  readonly contentType: string
  readonly metadata: Readonly<Record<string, unknown>>
  /** Where its bytes lie until the reply is sent. */
  readonly path: string
}

const maxFileBytes = 100 * 1024 * 1024
const maxTextBytes = 64 * 1024
const maxNameBytes = 255
const unknownType = 'application/octet-stream'

/** Throws the 413 of a file that is too large and the 422 of a form without one. */
export async function receiveUpload(request: FastifyRequest): Promise<Upload> {
  if (!request.isMultipart())
    throw problem(415, 'Unsupported Media Type', 'Expected a form (multipart/form-data)')
  // Before anything is written: the parts beside the file are small.
  if (Number(request.headers['content-length'] ?? 0) > maxBodyBytes) throw tooLarge()
  const { files, values } = await saveParts(request)
  const content = files.find(({ fieldname }) => fieldname === 'content')
  if (!content) throw invalidField('', 'required', 'content is required')
  const read = (name: string) => readText(name, files, values)
  const type = checkType((await read('type')) ?? content.mimetype)
  return {
    name: checkName((await read('filename')) ?? content.filename),
    contentType: type === unknownType ? await sniffFile(content.filepath) : type,
    metadata: parseMetadata(await read('metadata')),
    path: content.filepath,
  }
}

type Parts = {
  readonly files: readonly SavedMultipartFile[]
  readonly values: MultipartFields
}

async function saveParts(request: FastifyRequest): Promise<Parts> {
  const limits = { files: 4, fields: 8, fileSize: maxFileBytes, fieldSize: maxTextBytes }
  try {
    const { files, values } = await request.saveRequestFiles({ limits })
    return { files, values: values as MultipartFields }
  } catch (error) {
    if (!(error instanceof Error && 'statusCode' in error && error.statusCode === 413))
      return explainMalformed(error)
    throw tooLarge()
  }
}

const tooLarge = () => new ProblemError(413, { detail: 'Files must be less than 100MB in size' })

/** A part that is text, however it was sent; undefined when there is none. */
async function readText(name: string, files: Parts['files'], values: Parts['values']) {
  const file = files.find(({ fieldname }) => fieldname === name)
  if (file) return readStart(file.filepath, maxTextBytes).then((bytes) => bytes.toString())
  const part: Multipart | undefined = [values[name]].flat()[0]
  if (part?.type !== 'field') return undefined
  if (typeof part.value === 'string') return part.value
  // It was JSON; what is not fit to be any is as good as none.
  return refuseValue(part.value) ? 'null' : JSON.stringify(part.value)
}

async function sniffFile(path: string): Promise<string> {
  return sniffType(await readStart(path, 16)) ?? unknownType
}

async function readStart(path: string, length: number): Promise<Buffer> {
  const handle = await open(path)
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0)
    return buffer.subarray(0, bytesRead)
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
  if (text === undefined || text === '') return {}
  const parsed = FileMetadata.safeParse(parseJson(text))
  if (parsed.success) return parsed.data
  throw invalidField('metadata', 'invalid_type', 'Expected a JSON object of at most 64 KiB')
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
