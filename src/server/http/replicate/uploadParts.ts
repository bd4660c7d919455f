/**
 * The parts of an upload's form: the bytes of `content` in a scratch file, all other parts as text.
 * The scratch folder is in the data folder, where a server that starts removes what another one
 * left, and its bytes count against the quota of files.
 */
import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Multipart, MultipartFile } from '@fastify/multipart'
import type { FastifyRequest } from 'fastify'
import { FluxdError } from '../../../errors.js'
import type { Files } from '../../../files/files.js'
import { refuseValue } from '../jsonLimits.js'
import { explainMalformed } from '../multipart.js'
import { ProblemError, problem } from './errors.js'

export type UploadParts = {
  readonly content: { readonly filename: string; readonly mimetype: string } | undefined
  /** By name; of parts with one name the first. */
  readonly texts: ReadonlyMap<string, string>
}

const maxFileBytes = 100 * 1024 * 1024
export const maxTextBytes = 64 * 1024
const maxFields = 200
const maxFiles = 4
/** Bytes between two looks at the disk. */
const checkedBytes = 4 * 1024 * 1024

/**
 * Reads the form of `request` and writes its `content` to `path`. Throws the 413 of a file that is
 * too large and `storage_full`; nothing is left at `path` then.
 */
export async function readUploadParts(
  request: FastifyRequest,
  path: string,
  files: Pick<Files, 'assertDiskSpace'>,
): Promise<UploadParts> {
  await mkdir(dirname(path), { recursive: true })
  try {
    return await readParts(request, (part) => saveContent(part, path, files))
  } catch (error) {
    await rm(path, { force: true })
    return refuse(error)
  }
}

async function readParts(
  request: FastifyRequest,
  save: (part: MultipartFile) => Promise<void>,
): Promise<UploadParts> {
  const texts = new Map<string, string>()
  let content: UploadParts['content']
  for await (const part of request.parts({ limits })) {
    if (part.type === 'file' && part.fieldname === 'content' && content === undefined) {
      content = { filename: part.filename, mimetype: part.mimetype }
      await save(part)
    } else {
      const text = await readText(part)
      if (!texts.has(part.fieldname)) texts.set(part.fieldname, text)
    }
  }
  return { content, texts }
}

const limits = {
  files: maxFiles,
  fields: maxFields,
  parts: maxFields + maxFiles,
  fileSize: maxFileBytes,
  fieldSize: maxTextBytes,
}

async function saveContent(
  part: MultipartFile,
  path: string,
  files: Pick<Files, 'assertDiskSpace'>,
): Promise<void> {
  await pipeline(part.file, (bytes) => checkSpace(bytes, files), createWriteStream(path))
  if (part.file.truncated) throw tooLarge()
}

async function* checkSpace(
  bytes: AsyncIterable<Uint8Array>,
  files: Pick<Files, 'assertDiskSpace'>,
): AsyncGenerator<Uint8Array> {
  let size = 0
  let nextCheck = 0
  for await (const chunk of bytes) {
    size += chunk.length
    if (size >= nextCheck) {
      await files.assertDiskSpace(size)
      nextCheck = size + checkedBytes
    }
    yield chunk
  }
}

/** The text of a part, however it was sent; of a file its beginning. */
async function readText(part: Multipart): Promise<string> {
  if (part.type === 'file') return readStart(part.file)
  if (typeof part.value === 'string') return part.value
  // It was JSON; what is not fit to be any is as good as none.
  return refuseValue(part.value) ? 'null' : JSON.stringify(part.value)
}

async function readStart(bytes: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  // To its end, as the parts after it come in the same stream.
  for await (const chunk of bytes) {
    if (size < maxTextBytes) chunks.push(chunk)
    size += chunk.length
  }
  return Buffer.concat(chunks).subarray(0, maxTextBytes).toString()
}

function refuse(error: unknown): never {
  if (error instanceof FluxdError || error instanceof ProblemError) throw error
  const code = error instanceof Error && 'code' in error ? String(error.code) : undefined
  if (code === 'FST_REQ_FILE_TOO_LARGE') throw tooLarge()
  if (code === undefined || !tooManyParts.includes(code)) return explainMalformed(error)
  throw problem(
    413,
    'Too many fields',
    `Expected a form of at most ${maxFiles} files and ${maxFields} fields`,
  )
}

const tooManyParts = ['FST_PARTS_LIMIT', 'FST_FILES_LIMIT', 'FST_FIELDS_LIMIT']

export const tooLarge = () =>
  new ProblemError(413, { detail: 'Files must be less than 100MB in size' })
