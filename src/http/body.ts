/**
 * Bodies are JSON, up to 105 MiB: an input file of 100 MB as a data URI. An empty body is none, as
 * clients label bodyless requests application/json too.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../errors.js'
import { refuseShape } from './jsonShape.js'

export const maxBodyBytes = 105 * 1024 * 1024

/** Who takes longer to send a request does not mean to: 105 MiB at 1.5 Mbit/s. */
export const longestRequestMs = 600_000

export function acceptJsonOnly(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>(
    'application/json',
    { parseAs: 'buffer' },
    (request, body, done) => {
      if (body.length === 0) return done(null, undefined)
      const refusal = refuseShape(body)
      if (refusal) return done(tooLarge(refusal))
      const text = body.toString('utf8')
      parseJson(request, text, (error, parsed) => done(error && explainJson(text), parsed))
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

/** The 400 of a text that is no JSON, or none that is parsed, with the place in it. */
function explainJson(text: string): Error {
  let fault = 'it has a key __proto__ or constructor.prototype'
  try {
    JSON.parse(text)
  } catch (error) {
    fault = error instanceof Error ? error.message : String(error)
  }
  return Object.assign(new Error(`Expected a body of JSON but it cannot be read: ${fault}`), {
    statusCode: 400,
  })
}

/** The 413 of a body, in either surface's shape. */
export const tooLarge = (sentence: string) =>
  Object.assign(new Error(sentence), { statusCode: 413 })
