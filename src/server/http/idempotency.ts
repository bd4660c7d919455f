/** `Idempotency-Key`: the same request under the same key is the same prediction. */
import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { invalidInput } from '../../errors.js'
import type { PredictionRequest } from '../../predictions/request.js'

const longestKey = 255

/**
 * The key of `request`, if it has one, and what `body` asks for under it. Throws what `refuse`
 * makes.
 */
export function readIdempotency(
  request: FastifyRequest,
  body: unknown,
  refuse: (sentence: string) => Error = invalidInput,
): PredictionRequest['idempotency'] {
  const key = request.headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key !== 'string' || key === '' || key.length > longestKey)
    throw refuse(
      `Expected an Idempotency-Key of 1 to ${longestKey} characters but received ${key.length}`,
    )
  const text = JSON.stringify([request.url, body])
  return { key, bodyDigest: createHash('sha256').update(text).digest('hex') }
}
