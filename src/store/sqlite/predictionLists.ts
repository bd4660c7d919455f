/**
 * Pages of predictions in the order of an index: a page takes the same anywhere in a store of any
 * size.
 */
import type { ListedPrediction, ListQuery } from '../predictionStore.js'
import type { Database } from './database.js'
import { type Cursor, earlier, end, later, startOf } from './predictionCursor.js'
import { type Row, toPrediction } from './predictionRows.js'

export type PredictionLists = {
  readonly list: (query: ListQuery) => ListedPrediction[]
  /** Ids of predictions with data that were over before `time`. */
  readonly listToClear: (time: Date, limit: number) => string[]
  readonly clear: (id: string) => void
}

export function createPredictionLists({ sqlite }: Database): PredictionLists {
  const timeOf = sqlite
    .prepare<[number], number>('SELECT created_at FROM predictions WHERE sequence = ?')
    .pluck()
  const page = (direction: 'ASC' | 'DESC') =>
    sqlite.prepare<[number, number, number, number, number], Row>(`
      SELECT * FROM predictions
      WHERE (created_at, sequence) > (?, ?) AND (created_at, sequence) < (?, ?)
      ORDER BY created_at ${direction}, sequence ${direction} LIMIT ?`)
  const [newestFirst, oldestFirst] = [page('DESC'), page('ASC')]
  const toClear = sqlite.prepare<[number, number], { readonly id: string }>(`
    SELECT id FROM predictions
    WHERE completed_at IS NOT NULL AND data_removed = 0 AND completed_at < ?
    ORDER BY completed_at LIMIT ?`)
  const clearRow = sqlite.prepare<[string]>(`
    UPDATE predictions SET excerpt_json = '{}', logs = '', output_json = NULL, data_removed = 1
    WHERE id = ?`)
  const deleteInput = sqlite.prepare<[string]>(`
    DELETE FROM inputs WHERE sequence = (SELECT sequence FROM predictions WHERE id = ?)`)

  const cursorOf = (sequence: number): Cursor => [timeOf.get(sequence) ?? end, sequence]

  return {
    list({ limit, before, after, createdAfter, createdBefore }) {
      const lower = later(startOf(createdAfter, 0), after === undefined ? [0, 0] : cursorOf(after))
      const upper = earlier(startOf(createdBefore, end), cursorOf(before ?? end))
      if (after === undefined) return newestFirst.all(...lower, ...upper, limit).map(toListed)
      return oldestFirst
        .all(...lower, ...upper, limit)
        .reverse()
        .map(toListed)
    },
    listToClear: (time, limit) => toClear.all(time.getTime(), limit).map(({ id }) => id),
    clear(id) {
      clearRow.run(id)
      deleteInput.run(id)
    },
  }
}

const toListed = (row: Row): ListedPrediction => ({
  sequence: row.sequence,
  prediction: toPrediction(row),
})
