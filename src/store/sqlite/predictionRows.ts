/** A prediction as the columns of its row. Times are milliseconds, what ends in _json is JSON. */
import type { Prediction } from '../../contract/prediction.js'
import type { CostKind } from '../../predictions/cost.js'

export type Row = {
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
  readonly traceparent: string | null
}

/** The columns of a row's place in the queue. */
export type QueueColumns = {
  readonly priority: number
  readonly turn: number
  readonly lora_set: string
  readonly cost_kind: CostKind
  readonly cost_tokens: number
  readonly cost_step_tokens: number
}

/** A row, and what of its input is kept in a table of its own. */
export type WholeRow = Row & {
  /** The input, where it is cut short in the row. */
  readonly sent_json: string | null
  readonly files_json: string | null
}

// A prompt is shorter, a data URI of an image longer.
const longestInRow = 4096
// A page of the list holds a hundred.
const longestInput = 64 * 1024

/** The columns that change after the admission, and those that do not. */
export const toColumns = (prediction: Prediction) => ({
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
  traceparent: prediction.traceparent ?? null,
})

/** The prediction of a row; long values of its input are cut short. */
export const toPrediction = (row: Row): Prediction => ({
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
  ...(row.traceparent !== null && { traceparent: row.traceparent }),
})

const toDate = (time: number | null) => (time === null ? undefined : new Date(time))

/** As `toPrediction`, with its whole input but for what is in files. */
export function toWhole(row: WholeRow | undefined): Prediction | undefined {
  if (!row) return undefined
  const prediction = toPrediction(row)
  return {
    ...prediction,
    input: row.sent_json === null ? prediction.input : JSON.parse(row.sent_json),
    ...(row.files_json !== null && { inputFiles: JSON.parse(row.files_json) }),
  }
}

/**
 * The input with long values cut and what is too much left out; the same object when there is
 * neither.
 */
export function shorten(input: Prediction['input']): Prediction['input'] {
  let left = longestInput
  const entries = Object.entries(input)
  const kept = entries.flatMap(([name, value]) => {
    const short = cut(value)
    left -= name.length + lengthOf(short)
    return left < 0 ? [] : [[name, short] as const]
  })
  const isWhole =
    kept.length === entries.length && kept.every(([name, value]) => value === input[name])
  return isWhole ? input : Object.fromEntries(kept)
}

function cut(value: unknown): unknown {
  if (lengthOf(value) <= longestInRow) return value
  return typeof value === 'string' ? `${value.slice(0, 64)}…` : '…'
}

// A field that a form left empty is undefined.
const lengthOf = (value: unknown) =>
  typeof value === 'string' ? value.length : (JSON.stringify(value)?.length ?? 0)
