/**
 * The pictures that predictions made, for whoever knows their URLs: clients fetch them without a key.
 * A URL never holds anything else, so that it may be kept for as long as it is wanted.
 */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import type { Files } from '../../files/files.js'
import { notFound, sendProblem } from './replicate/errors.js'
import type { ZodTypeProvider } from './zod.js'

const FilePath = z.object({ id: z.string(), name: z.string() })

export function outputRoutes(server: FastifyInstance, files: Files): void {
  const app = server.withTypeProvider<ZodTypeProvider>()

  app.get(
    '/files/:id/:name',
    { schema: { params: FilePath }, config: { access: 'public' }, errorHandler: sendProblem },
    async (request, reply) => {
      const { id, name } = request.params
      const file = await files.find(id)
      if (file?.kind !== 'output' || file.name !== name) throw notFound()
      return reply
        .header('cache-control', 'public, max-age=31536000, immutable')
        .header('etag', `"${file.md5}"`)
        .header('x-content-type-options', 'nosniff')
        .header('content-length', file.size)
        .type(file.contentType)
        .send(await files.stream(id))
    },
  )
}
