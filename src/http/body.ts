/**
 * Bodies are JSON, up to 105 MiB: an input file of 100 MB as a data URI. An empty body is none, as
 * clients label bodyless requests application/json too.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../errors.js'

export const maxBodyBytes = 105 * 1024 * 1024

export function acceptJsonOnly(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<string>(
    'application/json',
    { parseAs: 'string' },
    (request, body, done) => {
      if (body === '') done(null, undefined)
      else parseJson(request, body, done)
    },
  )
  app.addContentTypeParser('*', (request, _payload, done) => {
    const type = request.headers['content-type'] ?? 'none'
    done(
      new FluxdError(
        'wrong_content_type',
        `Expected content-type application/json but received ${type}`,
      ),
    )
  })
}
