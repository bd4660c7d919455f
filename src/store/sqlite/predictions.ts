/**
 * Predictions on disk. A row is small: values of an input that are long (data URIs) are whole in a
 * table of their own and cut short in the row.
 */
import type { Prediction } from '../../contract/prediction.js'
import { joinWish, splitWish, type Wish } from '../storedRequest.js'
import type { Database } from './database.js'
import { earlier, end, later, type Place, startOf } from './predictionCursor.js'
import {
  type Row,
  shorten,
  toColumns,
  toPrediction,
  toWhole,
  type WholeRow,
} from './predictionRows.js'

export type Admission = {
  /** Its input may be long. */
  readonly prediction: Prediction
  readonly wish: Wish
  readonly priority: number
}

export type StoredPrediction = {
  /** Rises with each admission. */
  readonly sequence: number
  readonly priority: number
  /** Long values of its input are cut short. */
  readonly prediction: Prediction
}

export type UnfinishedPrediction = StoredPrediction & { readonly wish: Wish }

export type ListQuery = {
  readonly limit: number
  /** Only what was admitted before, or after, this one. */
  readonly before?: number | undefined
  readonly after?: number | undefined
  readonly createdAfter?: Date | undefined
  readonly createdBefore?: Date | undefined
}

export type PredictionStore = {
  /** The prediction as it lives on: with the long values of its input cut short. */
  readonly insert: (admission: Admission) => StoredPrediction
  /** Everything of a prediction that changes after its admission. */
  readonly save: (prediction: Prediction) => void
  /** With its whole input. */
  readonly find: (id: string) => Prediction | undefined
  readonly findByStreamToken: (token: string) => Prediction | undefined
  /** Newest first; with `after`, those that follow it most closely. */
  readonly list: (query: ListQuery) => StoredPrediction[]
  readonly readWish: (id: string) => Wish
  /** Those that are not terminal, in order of admission; long values of their wishes are cut short too. */
  readonly listUnfinished: () => UnfinishedPrediction[]
  /** One more server has begun with it unfinished; returns how many have. */
  readonly countServerStart: (id: string) => number
  /** Ids of terminal predictions with data that were completed before `time`, at most `limit`. */
  readonly listToClear: (time: Date, limit: number) => string[]
  /** Removes input, output and logs. */
  readonly clear: (id: string) => void
}

type WishRow = { readonly sent_json: string; readonly wish_json: string }

export function createPredictionStore({ sqlite }: Database): PredictionStore {
  const insertRow = sqlite.prepare<
    Omit<Row, 'sequence' | 'logs' | 'output_json' | 'error' | 'data_removed'>
  >(`
    INSERT INTO predictions (id, surface, model, version, deployment, key_id, priority, status,
      created_at, started_at, completed_at, deadline, sent_created_at, excerpt_json, metrics_json,
      webhook_json, stream_token)
    VALUES (@id, @surface, @model, @version, @deployment, @key_id, @priority, @status, @created_at,
      @started_at, @completed_at, @deadline, @sent_created_at, @excerpt_json, @metrics_json,
      @webhook_json, @stream_token)`)
  const insertInput = sqlite.prepare(
    'INSERT INTO inputs (sequence, sent_json, files_json, wish_json) VALUES (?, ?, ?, ?)',
  )
  const update = sqlite.prepare(`
    UPDATE predictions SET status = @status, started_at = @started_at, completed_at = @completed_at,
      logs = @logs, output_json = @output_json, error = @error, metrics_json = @metrics_json
    WHERE id = @id`)
  // One statement, as each takes a lock: a page of the list is asked for less often than this.
  const wholeBy = (column: 'id' | 'stream_token') =>
    sqlite.prepare<[string], WholeRow>(`
      SELECT predictions.*, sent_json, files_json FROM predictions
      LEFT JOIN inputs USING (sequence) WHERE ${column} = ?`)
  const [byId, byToken] = [wholeBy('id'), wholeBy('stream_token')]
  const wishOf = sqlite.prepare<[string], WishRow>(`
    SELECT COALESCE(sent_json, excerpt_json) AS sent_json, wish_json
    FROM predictions JOIN inputs USING (sequence) WHERE id = ?`)
  const unfinished = sqlite.prepare<[], WholeRow & Pick<WishRow, 'wish_json'>>(`
    SELECT predictions.*, NULL AS sent_json, files_json, wish_json
    FROM predictions JOIN inputs USING (sequence)
    WHERE status IN ('starting', 'processing') ORDER BY sequence`)
  const countStart = sqlite.prepare<[string], { server_starts: number }>(`
    UPDATE predictions SET server_starts = server_starts + 1 WHERE id = ? RETURNING server_starts`)
  const toClear = sqlite.prepare<[number, number], { id: string }>(`
    SELECT id FROM predictions
    WHERE completed_at IS NOT NULL AND data_removed = 0 AND completed_at < ?
    ORDER BY completed_at LIMIT ?`)
  const clearRow = sqlite.prepare(`
    UPDATE predictions SET excerpt_json = '{}', logs = '', output_json = NULL, data_removed = 1
    WHERE id = ?`)
  const deleteInput = sqlite.prepare(`
    DELETE FROM inputs WHERE sequence = (SELECT sequence FROM predictions WHERE id = ?)`)
  const timeOf = sqlite
    .prepare<[number], number>('SELECT created_at FROM predictions WHERE sequence = ?')
    .pluck()
  // In the order of an index, so that a page takes the same anywhere in a store of any size.
  const page = (direction: 'ASC' | 'DESC') =>
    sqlite.prepare<[number, number, number, number, number], Row>(`
      SELECT * FROM predictions
      WHERE (created_at, sequence) > (?, ?) AND (created_at, sequence) < (?, ?)
      ORDER BY created_at ${direction}, sequence ${direction} LIMIT ?`)
  const [newestFirst, oldestFirst] = [page('DESC'), page('ASC')]

  const placeOf = (sequence: number): Place => [timeOf.get(sequence) ?? end, sequence]

  return {
    insert({ prediction, wish, priority }) {
      const excerpt = shorten(prediction.input)
      const row = { ...toColumns(prediction), priority, excerpt_json: JSON.stringify(excerpt) }
      const sequence = Number(insertRow.run(row).lastInsertRowid)
      const sent = excerpt === prediction.input ? null : JSON.stringify(prediction.input)
      const files = prediction.inputFiles ? JSON.stringify(prediction.inputFiles) : null
      insertInput.run(sequence, sent, files, JSON.stringify(splitWish(wish, prediction.input)))
      return { sequence, priority, prediction: { ...prediction, input: excerpt } }
    },
    save: (prediction) => void update.run(toColumns(prediction)),
    find: (id) => toWhole(byId.get(id)),
    findByStreamToken: (token) => toWhole(byToken.get(token)),
    list({ limit, before, after, createdAfter, createdBefore }) {
      const lower = later(startOf(createdAfter, 0), after === undefined ? [0, 0] : placeOf(after))
      const upper = earlier(startOf(createdBefore, end), placeOf(before ?? end))
      if (after === undefined) return newestFirst.all(...lower, ...upper, limit).map(toStored)
      return oldestFirst
        .all(...lower, ...upper, limit)
        .reverse()
        .map(toStored)
    },
    readWish(id) {
      const { sent_json, wish_json } = wishOf.get(id)!
      return joinWish(JSON.parse(wish_json), JSON.parse(sent_json))
    },
    listUnfinished: () =>
      unfinished.all().map((row) => {
        const stored = { ...toStored(row), prediction: toWhole(row)! }
        return { ...stored, wish: joinWish(JSON.parse(row.wish_json), stored.prediction.input) }
      }),
    countServerStart: (id) => countStart.get(id)?.server_starts ?? 0,
    listToClear: (time, limit) => toClear.all(time.getTime(), limit).map(({ id }) => id),
    clear(id) {
      clearRow.run(id)
      deleteInput.run(id)
    },
  }
}

const toStored = (row: Row): StoredPrediction => ({
  sequence: row.sequence,
  priority: row.priority,
  prediction: toPrediction(row),
})
