/**
 * Predictions on disk. A row is small: values of an input that are long (data URIs) are whole in a
 * table of their own and cut short in the row.
 */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { Database } from './database.js'
import { earlier, end, later, type Place, startOf } from './place.js'

/** A LoRA as a model of the catalog or a request names it. */
export type LoraReference = {
  readonly source: string
  /** Where it lies, if it is a file on this machine; others are to be fetched. */
  readonly path?: string
  /** The model's times the wish's. */
  readonly scale: number
  readonly sha256?: string
}

/** What a prediction is to make: the validated input, its seed drawn, and the LoRAs it comes to. */
export type Wish = {
  readonly input: FluxInput
  readonly loras: {
    readonly main: readonly LoraReference[]
    readonly extra: readonly LoraReference[]
  }
}

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
  readonly readInput: (id: string) => Prediction['input']
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

type Row = {
  readonly sequence: number
  readonly id: string
  readonly surface: Prediction['surface']
  readonly model: string
  readonly version: string
  readonly deployment: string | null
  readonly key_id: string | null
  readonly priority: number
  readonly status: Prediction['status']
  readonly created_at: number
  readonly started_at: number | null
  readonly completed_at: number | null
  readonly deadline: number | null
  readonly sent_created_at: string | null
  readonly excerpt_json: string
  readonly logs: string
  readonly output_json: string | null
  readonly error: string | null
  readonly metrics_json: string
  readonly webhook_json: string | null
  readonly data_removed: number
  readonly stream_token: string
}

type InputRow = { readonly sent_json: string | null; readonly wish_json: string }

// A prompt is shorter, a data URI of a picture longer.
const longestInRow = 4096

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
    'INSERT INTO inputs (sequence, sent_json, wish_json) VALUES (?, ?, ?)',
  )
  const update = sqlite.prepare(`
    UPDATE predictions SET status = @status, started_at = @started_at, completed_at = @completed_at,
      logs = @logs, output_json = @output_json, error = @error, metrics_json = @metrics_json
    WHERE id = @id`)
  const byId = sqlite.prepare<[string], Row>('SELECT * FROM predictions WHERE id = ?')
  const byToken = sqlite.prepare<[string], Row>('SELECT * FROM predictions WHERE stream_token = ?')
  const inputOf = sqlite.prepare<[string], InputRow>(`
    SELECT sent_json, wish_json FROM inputs
    WHERE sequence = (SELECT sequence FROM predictions WHERE id = ?)`)
  const unfinished = sqlite.prepare<[], Row & Pick<InputRow, 'wish_json'>>(`
    SELECT predictions.*, wish_json FROM predictions JOIN inputs USING (sequence)
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

  const whole = (row: Row | undefined): Prediction | undefined => {
    if (!row) return undefined
    const sent = inputOf.get(row.id)?.sent_json
    const { prediction } = toStored(row)
    return sent ? { ...prediction, input: JSON.parse(sent) } : prediction
  }

  return {
    insert({ prediction, wish, priority }) {
      const excerpt = shorten(prediction.input)
      const row = { ...toColumns(prediction), priority, excerpt_json: JSON.stringify(excerpt) }
      const sequence = Number(insertRow.run(row).lastInsertRowid)
      const sent = excerpt === prediction.input ? null : JSON.stringify(prediction.input)
      insertInput.run(sequence, sent, JSON.stringify(splitWish(wish, prediction.input)))
      return { sequence, priority, prediction: { ...prediction, input: excerpt } }
    },
    save: (prediction) => void update.run(toColumns(prediction)),
    find: (id) => whole(byId.get(id)),
    findByStreamToken: (token) => whole(byToken.get(token)),
    list({ limit, before, after, createdAfter, createdBefore }) {
      const lower = later(startOf(createdAfter, 0), after === undefined ? [0, 0] : placeOf(after))
      const upper = earlier(startOf(createdBefore, end), placeOf(before ?? end))
      if (after === undefined) return newestFirst.all(...lower, ...upper, limit).map(toStored)
      return oldestFirst
        .all(...lower, ...upper, limit)
        .reverse()
        .map(toStored)
    },
    readInput: (id) => whole(byId.get(id))?.input ?? {},
    readWish(id) {
      const { sent_json, wish_json } = inputOf.get(id)!
      const sent = JSON.parse(sent_json ?? byId.get(id)!.excerpt_json)
      return joinWish(JSON.parse(wish_json), sent)
    },
    listUnfinished: () =>
      unfinished.all().map((row) => {
        const stored = toStored(row)
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

const toColumns = (prediction: Prediction) => ({
  id: prediction.id,
  surface: prediction.surface,
  model: prediction.model,
  version: prediction.version,
  deployment: prediction.deployment ?? null,
  key_id: prediction.keyId ?? null,
  status: prediction.status,
  created_at: prediction.createdAt.getTime(),
  started_at: prediction.startedAt?.getTime() ?? null,
  completed_at: prediction.completedAt?.getTime() ?? null,
  deadline: prediction.deadline?.getTime() ?? null,
  sent_created_at: prediction.sentCreatedAt ?? null,
  logs: prediction.logs,
  output_json: prediction.output ? JSON.stringify(prediction.output) : null,
  error: prediction.error ?? null,
  metrics_json: JSON.stringify(prediction.metrics),
  webhook_json: prediction.webhook ? JSON.stringify(prediction.webhook) : null,
  stream_token: prediction.streamToken,
})

const toStored = (row: Row): StoredPrediction => ({
  sequence: row.sequence,
  priority: row.priority,
  prediction: {
    id: row.id,
    surface: row.surface,
    model: row.model,
    version: row.version,
    deployment: row.deployment ?? undefined,
    keyId: row.key_id ?? undefined,
    input: JSON.parse(row.excerpt_json),
    status: row.status,
    createdAt: new Date(row.created_at),
    startedAt: toDate(row.started_at),
    completedAt: toDate(row.completed_at),
    deadline: toDate(row.deadline),
    sentCreatedAt: row.sent_created_at ?? undefined,
    logs: row.logs,
    output: row.output_json === null ? undefined : JSON.parse(row.output_json),
    error: row.error ?? undefined,
    metrics: JSON.parse(row.metrics_json),
    webhook: row.webhook_json === null ? undefined : JSON.parse(row.webhook_json),
    dataRemoved: row.data_removed === 1,
    streamToken: row.stream_token,
  },
})

const toDate = (time: number | null) => (time === null ? undefined : new Date(time))

/** The input with long strings cut; the same object when there are none. */
function shorten(input: Prediction['input']): Prediction['input'] {
  const isLong = (value: unknown) =>
    typeof value === 'string'
      ? value.length > longestInRow
      : typeof value === 'object' && JSON.stringify(value).length > longestInRow
  if (!Object.values(input).some(isLong)) return input
  const cut = (value: unknown) => (typeof value === 'string' ? `${value.slice(0, 64)}…` : '…')
  return Object.fromEntries(
    Object.entries(input).map(([name, value]) => [name, isLong(value) ? cut(value) : value]),
  )
}

/** A wish as it is stored: what is in its input as it was sent (up to 100 MB) is not stored twice. */
type SplitWish = {
  readonly asSent: readonly string[]
  readonly own: Partial<FluxInput>
  readonly loras: Wish['loras']
}

function splitWish({ input, loras }: Wish, sent: Prediction['input']): SplitWish {
  const fields = Object.entries(input)
  const isSent = ([name, value]: [string, unknown]) => sent[name] === value
  return {
    asSent: fields.filter(isSent).map(([name]) => name),
    own: Object.fromEntries(fields.filter((field) => !isSent(field))),
    loras,
  }
}

const joinWish = ({ asSent, own, loras }: SplitWish, sent: Prediction['input']): Wish => ({
  input: { ...own, ...Object.fromEntries(asSent.map((name) => [name, sent[name]])) } as FluxInput,
  loras,
})
