/**
 * `/v1/files`: uploads, which predictions name as input. `urls.get` describes a file; its bytes are
 * at `urls.download`, whose signature stands for a key (C-3.7).
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { File as WireFile } from '../../../contract/file.js'
import type { Files } from '../../../files/files.js'
import type { StoredFile } from '../../../store/fileStore.js'
import { randomId } from '../../../store/randomId.js'
import { disposition, sendFile } from '../fileReply.js'
import type { ZodTypeProvider } from '../zod.js'
import { owner, type ReplicateServices } from './context.js'
import { ProblemError, problem } from './errors.js'
import { IdPath } from './lookup.js'
import { CursorQuery, invalidCursor, pageOf, pageSize, toPage } from './pagination.js'
import { receiveUpload } from './upload.js'

const DownloadQuery = z.object({
  owner: z.string(),
  expiry: z.string().regex(/^\d{1,12}$/),
  signature: z.string(),
})

type Services = Pick<ReplicateServices, 'files' | 'publicUrl' | 'downloadSecret' | 'scratchFolder'>

export function fileRoutes(server: FastifyInstance, services: Services): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { files, publicUrl, downloadSecret, scratchFolder } = services
  const present = (file: StoredFile, request: FastifyRequest) =>
    toWireFile(file, publicUrl(request), downloadSecret)

  app.post('/files', { schema: schemas.upload }, async (request, reply) => {
    const path = join(scratchFolder, randomId())
    try {
      const upload = await receiveUpload(request, path, files)
      const file = await files.add({
        ...upload,
        kind: 'upload',
        bytes: createReadStream(path),
        keyId: request.caller?.keyId,
      })
      reply.code(201)
      return present(file, request)
    } finally {
      await rm(path, { force: true })
    }
  })

  app.get('/files', { schema: schemas.list }, async (request) => {
    const listed = await files.list('upload', {
      limit: pageSize + 1,
      before: decodeSequence(request.query.cursor),
    })
    const results = listed.slice(0, pageSize).map(({ file }) => present(file, request))
    const next =
      listed.length > pageSize ? encodeSequence(listed[pageSize - 1]!.sequence) : undefined
    return toPage({ results, next }, request, publicUrl)
  })

  app.get('/files/:id', { schema: schemas.get }, async (request) =>
    present(await expectUpload(files, request.params.id), request),
  )

  app.delete('/files/:id', { schema: schemas.remove }, async (request, reply) => {
    await files.remove((await expectUpload(files, request.params.id)).id)
    return reply.code(204).send()
  })

  app.get(
    '/files/:id/download',
    { schema: schemas.download, config: { access: 'public' } },
    async (request, reply) => {
      const { id } = request.params
      const { expiry, signature } = request.query
      if (!isSigned(downloadSecret, `${request.query.owner} ${id} ${expiry}`, signature, expiry))
        throw problem(403, 'Forbidden', 'Expected a signature of this URL that has not expired')
      const file = await expectUpload(files, id)
      // Never shown as a page of this server: its content is its sender's.
      reply.header('content-disposition', disposition('attachment', file.name))
      return sendFile(file, files, request, reply)
    },
  )
}

const bytes = z.string().meta({ format: 'binary' })

const schemas = {
  upload: {
    summary: 'Upload a file, as the part "content" of a form',
    replies: { 201: WireFile },
    form: z.object({
      content: bytes,
      filename: z.string().optional(),
      type: z.string().optional(),
      metadata: z.string().optional().meta({ description: 'A JSON object' }),
    }),
  },
  list: {
    summary: 'The uploaded files',
    replies: { 200: pageOf(WireFile) },
    querystring: CursorQuery,
  },
  get: { summary: 'One file', replies: { 200: WireFile }, params: IdPath },
  remove: { summary: 'Remove a file', replies: { 204: null }, params: IdPath },
  download: {
    summary: 'Its bytes, for every client that has the signed URL',
    replies: { 200: '*/*', 206: '*/*', 304: null, 416: null },
    params: IdPath,
    querystring: DownloadQuery,
  },
} as const

/** Uploads only: outputs are not in this list. */
async function expectUpload(files: Files, id: string): Promise<StoredFile> {
  const file = await files.find(id)
  if (file?.kind === 'upload') return file
  throw new ProblemError(404, { detail: 'File not found' })
}

function toWireFile(file: StoredFile, baseUrl: string, secret: Uint8Array): WireFile {
  const url = `${baseUrl}/v1/files/${file.id}`
  // An upload always expires.
  const expiresAt = file.expiresAt ?? file.createdAt
  return {
    id: file.id,
    name: file.name,
    content_type: file.contentType,
    size: file.size,
    etag: file.md5,
    checksums: { sha256: file.sha256, md5: file.md5 },
    metadata: file.metadata,
    created_at: file.createdAt.toISOString(),
    expires_at: expiresAt.toISOString(),
    urls: { get: url, download: `${url}/download?${signedQuery(file.id, expiresAt, secret)}` },
  }
}

function signedQuery(id: string, expiresAt: Date, secret: Uint8Array): URLSearchParams {
  const expiry = String(Math.floor(expiresAt.getTime() / 1000))
  const signature = sign(secret, `${owner} ${id} ${expiry}`).toString('base64')
  return new URLSearchParams({ owner, expiry, signature })
}

function isSigned(secret: Uint8Array, text: string, signature: string, expiry: string): boolean {
  const [given, expected] = [Buffer.from(signature, 'base64'), sign(secret, text)]
  const isOurs = given.length === expected.length && timingSafeEqual(given, expected)
  return isOurs && Number(expiry) * 1000 > Date.now()
}

const sign = (secret: Uint8Array, text: string) =>
  createHmac('sha256', secret).update(text).digest()

const encodeSequence = (sequence: number) => Buffer.from(`before ${sequence}`).toString('base64url')

function decodeSequence(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined
  const digits = /^before (\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString())?.[1]
  if (digits === undefined) throw invalidCursor()
  return Number(digits)
}
