/** Lists in pages of a hundred. Cursors are opaque; the URLs of other pages keep the query. */
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Page } from '../../../contract/replicate.js'
import type { PublicUrl } from '../publicUrl.js'
import { problem } from './errors.js'

export const pageSize = 100

export const CursorQuery = z.object({ cursor: z.string().optional() })

/** The schema of a page of `item`. */
export const pageOf = (item: z.ZodType) =>
  z.object({ next: z.string().nullable(), previous: z.string().nullable(), results: z.array(item) })

export type Cut<T> = {
  readonly results: readonly T[]
  readonly next?: string | undefined
  readonly previous?: string | undefined
}

/** The page that the client of `request` gets; `next` and `previous` become absolute URLs. */
export function toPage<T>(
  { results, next, previous }: Cut<T>,
  request: FastifyRequest,
  publicUrl: PublicUrl,
): Page<T> {
  const link = (cursor: string | undefined) => {
    if (cursor === undefined) return null
    // What a client says of its host need not be one.
    const { pathname, searchParams } = new URL(request.url, 'http://localhost')
    searchParams.set('cursor', cursor)
    return `${publicUrl(request)}${pathname}?${searchParams}`
  }
  return { next: link(next), previous: link(previous), results }
}

/** The page of a list that is short enough to be at hand as a whole. */
export function cutPage<T>(items: readonly T[], cursor: string | undefined): Cut<T> {
  const start = cursor === undefined ? 0 : decodeOffset(cursor)
  const end = start + pageSize
  return {
    results: items.slice(start, end),
    next: end < items.length ? encodeOffset(end) : undefined,
    previous: start > 0 ? encodeOffset(Math.max(0, start - pageSize)) : undefined,
  }
}

const encodeOffset = (offset: number) => Buffer.from(`at ${offset}`).toString('base64url')

function decodeOffset(cursor: string): number {
  const digits = /^at (\d{1,9})$/.exec(Buffer.from(cursor, 'base64url').toString())?.[1]
  if (digits === undefined) throw invalidCursor()
  return Number(digits)
}

export const invalidCursor = () =>
  problem(422, 'Invalid cursor', 'Expected a cursor that came with another page of this list')
