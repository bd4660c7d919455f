/**
 * Bodies are JSON, up to 105 MiB: an input file of 100 MB as a data URI. An empty body is none, as
 * clients label bodyless requests application/json too.
 */
import type { FastifyInstance } from 'fastify'
import { FluxdError } from '../../errors.js'
import { HttpError } from './errors.js'
import { halfCharacters, isWellFormed, refuseShape } from './jsonLimits.js'

export const maxBodyBytes = 105 * 1024 * 1024

/** What a client may take to send a request: 105 MiB at 1.5 Mbit/s. */
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
      parseJson(request, text, (error, parsed) => {
        if (error) done(unreadable(explainJson(text)))
        else if (!mayHaveHalves(body) || isWellFormed(parsed)) done(null, parsed)
        else done(unreadable(halfCharacters))
      })
    },
  )
  app.addContentTypeParser('*', (request, _payload, done) => {
    const type = request.headers['content-type'] ?? 'none'
    done(wrongType(`Expected content-type application/json but received ${type}`))
  })
}

export const wrongType = (sentence: string) => new FluxdError('wrong_content_type', sentence)

/** Why a text is no JSON, with the place in it, or none that is parsed. */
function explainJson(text: string): string {
  try {
    JSON.parse(text)
    return 'it has a key __proto__ or constructor.prototype'
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** As UTF-8 they can only be escaped; to look for that is quick where a text is a file. */
const mayHaveHalves = (body: Buffer) => body.includes('\\ud') || body.includes('\\uD')

const unreadable = (fault: string) =>
  new HttpError(400, `Expected a body of JSON but it cannot be read: ${fault}`)

/** The 413 of a body. */
export const tooLarge = (sentence: string) => new HttpError(413, sentence)
