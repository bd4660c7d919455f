/**
 * Pages of predictions, newest first. A cursor is the admission number beside which a page begins.
 */

import type { Prediction } from '../../contract/prediction.js'
import { invalidInput } from '../../errors.js'
import type { ListedPrediction, PredictionStore } from '../../store/predictionStore.js'

export type PredictionPage = {
  /** Opaque; absent on the newest page. */
  readonly cursor?: string | undefined
  readonly limit: number
  readonly createdAfter?: Date | undefined
  readonly createdBefore?: Date | undefined
}

export type Listed = {
  /** Newest first. Long values of inputs (data URIs) are cut short; `get` has them whole. */
  readonly predictions: readonly Prediction[]
  /** Cursors of the pages with older and with newer predictions, where there are any. */
  readonly next?: string | undefined
  readonly previous?: string | undefined
}

type Position = { readonly side: 'older' | 'newer'; readonly sequence: number }

/** Throws `invalid_input` for a cursor that was never given out. */
export async function listPage(
  store: Pick<PredictionStore, 'list'>,
  page: PredictionPage,
): Promise<Listed> {
  const { cursor, limit, createdAfter, createdBefore } = page
  const position = cursor === undefined ? undefined : parseCursor(cursor)
  const isNewer = position?.side === 'newer'
  const rows = await store.list({
    createdAfter,
    createdBefore,
    // One more tells whether the list goes on.
    limit: limit + 1,
    ...(position && (isNewer ? { after: position.sequence } : { before: position.sequence })),
  })
  const goesOn = rows.length > limit
  const shown = isNewer ? rows.slice(-limit) : rows.slice(0, limit)
  const [first, last] = [shown[0], shown.at(-1)]
  return {
    predictions: shown.map(({ prediction }) => prediction),
    next: last && (goesOn || isNewer) ? formatCursor('older', last) : undefined,
    previous: first && (isNewer ? goesOn : position) ? formatCursor('newer', first) : undefined,
  }
}

const formatCursor = (side: Position['side'], { sequence }: ListedPrediction) =>
  Buffer.from(`${side}:${sequence}`).toString('base64url')

function parseCursor(cursor: string): Position {
  const [, side, sequence] =
    /^(older|newer):(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString()) ?? []
  if (side === undefined)
    throw invalidInput(`Expected a cursor of this server but received ${cursor.slice(0, 64)}`)
  return { side: side as Position['side'], sequence: Number(sequence) }
}
