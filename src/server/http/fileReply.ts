/**
 * A stored file as a reply, with the conditions and ranges of RFC 9110 §13 and §14. One range is
 * served as 206; of several ranges, or of another unit, the whole file, which the RFC allows.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Files } from '../../files/files.js'
import type { StoredFile } from '../../store/fileStore.js'

export type ByteRange = { readonly start: number; readonly end: number }

/** Sends `file`, or 304 or 416; headers that depend on the kind of file are set by the caller. */
export async function sendFile(
  file: StoredFile,
  files: Pick<Files, 'stream'>,
  { headers, method }: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const etag = `"${file.md5}"`
  reply
    .header('etag', etag)
    .header('last-modified', file.createdAt.toUTCString())
    .header('accept-ranges', 'bytes')
    .header('x-content-type-options', 'nosniff')
  if (isUnchanged(headers, etag, file.createdAt)) return reply.code(304).send()
  const range = method === 'GET' ? chooseRange(headers, etag, file) : undefined
  if (range === 'unsatisfiable')
    return reply.code(416).header('content-range', `bytes */${file.size}`).send()
  reply.type(file.contentType)
  if (range === undefined)
    return reply.header('content-length', file.size).send(await files.stream(file.id))
  const { start, end } = range
  return reply
    .code(206)
    .header('content-range', `bytes ${start}-${end}/${file.size}`)
    .header('content-length', end - start + 1)
    .send(await files.stream(file.id, range))
}

type Headers = FastifyRequest['headers']

/** `If-None-Match` outweighs `If-Modified-Since`. */
function isUnchanged(headers: Headers, etag: string, modified: Date): boolean {
  const tags = headers['if-none-match']
  if (tags !== undefined) {
    const known = tags.split(',').map((tag) => tag.trim().replace(/^W\//, ''))
    return known.includes(etag) || known.includes('*')
  }
  return isNotNewer(modified, headers['if-modified-since'])
}

/** Dates of HTTP have no milliseconds. */
const isNotNewer = (modified: Date, date: string | undefined) =>
  date !== undefined && Math.floor(modified.getTime() / 1000) * 1000 <= Date.parse(date)

function chooseRange(
  headers: Headers,
  etag: string,
  { size, createdAt }: StoredFile,
): ByteRange | 'unsatisfiable' | undefined {
  const condition = headers['if-range']
  const isSame =
    condition === undefined || condition === etag || condition === createdAt.toUTCString()
  return isSame ? parseRange(headers.range, size) : undefined
}

/** The bytes that a `Range` header names of `size`; undefined where the whole file is sent. */
export function parseRange(
  header: string | undefined,
  size: number,
): ByteRange | 'unsatisfiable' | undefined {
  const [, first = '', last = ''] =
    /^bytes=\s*(\d{0,15})\s*-\s*(\d{0,15})\s*$/i.exec(header ?? '') ?? []
  if (first === '' && last === '') return undefined
  if (first !== '' && last !== '' && Number(last) < Number(first)) return undefined
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1)
  return start > end ? 'unsatisfiable' : { start, end }
}

/** `Content-Disposition` with a name of any characters (RFC 6266 §4.3). */
export function disposition(type: 'inline' | 'attachment', name: string): string {
  const plain = name.replace(/[^\x20-\x7e]|["\\%]/g, '_')
  const encoded = encodeURIComponent(Buffer.from(name).toString()).replace(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
  return plain === name
    ? `${type}; filename="${plain}"`
    : `${type}; filename="${plain}"; filename*=UTF-8''${encoded}`
}
