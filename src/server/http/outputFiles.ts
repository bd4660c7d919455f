/**
 * The images that predictions generated, for every client that knows their URLs: they are fetched
 * without a key. A URL never holds anything else, so that a cache may keep it.
 */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Files } from '../../files/files.js'
import { disposition, sendFile } from './fileReply.js'
import { notFound, sendProblem } from './replicate/errors.js'
import type { ZodTypeProvider } from './zod.js'

const FilePath = z.object({ id: z.string(), name: z.string() })

export function outputRoutes(server: FastifyInstance, files: Files): void {
  const app = server.withTypeProvider<ZodTypeProvider>()

  app.get(
    '/files/:id/:name',
    {
      schema: {
        summary: 'An image, for every client that has its URL',
        replies: { 200: 'image/*', 206: 'image/*', 304: null, 416: null },
        params: FilePath,
      },
      config: { access: 'public' },
      errorHandler: sendProblem,
    },
    async (request, reply) => {
      const { id, name } = request.params
      const file = await files.find(id)
      if (file?.kind !== 'output' || file.name !== name) throw notFound()
      reply
        .header('cache-control', 'public, max-age=31536000, immutable')
        .header('content-disposition', disposition('inline', `${id.slice(0, 8)}-${name}`))
      return sendFile(file, files, request, reply)
    },
  )
}
