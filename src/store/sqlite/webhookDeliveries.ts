/**
 * Webhook deliveries that must arrive: written in the transaction of the state they report, and
 * kept for a while after they have arrived or were given up. What is sent is the prediction as it
 * is then.
 */
import type { WebhookEvent } from '../../contract/prediction.js'
import type { Database } from './database.js'

export type Delivery = {
  /** The same over all attempts: the receiver's `webhook-id`. */
  readonly id: string
  readonly predictionId: string
  readonly event: WebhookEvent
  /** How often it was sent. */
  readonly attempts: number
  readonly createdAt: Date
  /** Of the next attempt; absent when there will be none. */
  readonly dueAt?: Date | undefined
  /** When it had arrived (there is no error then) or was given up. */
  readonly settledAt?: Date | undefined
  /** Of the last attempt. */
  readonly error?: string | undefined
}

/** How an attempt went: it arrived, it is tried again, or it is given up. */
export type Attempt =
  | { readonly kind: 'arrived'; readonly at: Date }
  | { readonly kind: 'postponed'; readonly until: Date; readonly error: string }
  | { readonly kind: 'given up'; readonly at: Date; readonly error: string }

export type DeliveryStore = {
  readonly add: (delivery: Pick<Delivery, 'id' | 'predictionId' | 'event' | 'createdAt'>) => void
  /** What is still to be sent, the one that is due first coming first. */
  readonly listPending: (limit: number) => Delivery[]
  readonly record: (id: string, attempt: Attempt) => void
  /** Oldest first. */
  readonly listOfPrediction: (predictionId: string) => Delivery[]
  /** Forgets what was settled before `time`. */
  readonly removeSettled: (time: Date) => void
}

type Row = {
  readonly id: string
  readonly prediction_id: string
  readonly event: WebhookEvent
  readonly attempts: number
  readonly created_at: number
  readonly due_at: number | null
  readonly settled_at: number | null
  readonly error: string | null
}

type Settling = Pick<Row, 'id' | 'due_at' | 'settled_at' | 'error'>

export function createDeliveryStore({ sqlite }: Database): DeliveryStore {
  const insert = sqlite.prepare<[string, string, WebhookEvent, number, number]>(
    'INSERT INTO deliveries (id, prediction_id, event, created_at, due_at) VALUES (?, ?, ?, ?, ?)',
  )
  const pending = sqlite.prepare<[number], Row>(
    'SELECT * FROM deliveries WHERE due_at IS NOT NULL ORDER BY due_at LIMIT ?',
  )
  const update = sqlite.prepare<Settling>(
    `UPDATE deliveries SET attempts = attempts + 1, due_at = @due_at, settled_at = @settled_at,
     error = @error WHERE id = @id`,
  )
  const ofPrediction = sqlite.prepare<[string], Row>(
    'SELECT * FROM deliveries WHERE prediction_id = ? ORDER BY created_at, id',
  )
  const forget = sqlite.prepare<[number]>('DELETE FROM deliveries WHERE settled_at < ?')
  return {
    add: ({ id, predictionId, event, createdAt }) =>
      void insert.run(id, predictionId, event, createdAt.getTime(), createdAt.getTime()),
    listPending: (limit) => pending.all(limit).map(toDelivery),
    record: (id, attempt) => void update.run({ id, ...settling(attempt) }),
    listOfPrediction: (predictionId) => ofPrediction.all(predictionId).map(toDelivery),
    removeSettled: (time) => void forget.run(time.getTime()),
  }
}

function settling(attempt: Attempt): Omit<Settling, 'id'> {
  switch (attempt.kind) {
    case 'arrived':
      return { due_at: null, settled_at: attempt.at.getTime(), error: null }
    case 'postponed':
      return { due_at: attempt.until.getTime(), settled_at: null, error: attempt.error }
    case 'given up':
      return { due_at: null, settled_at: attempt.at.getTime(), error: attempt.error }
    default:
      return attempt satisfies never
  }
}

const toDate = (time: number | null) => (time === null ? undefined : new Date(time))

const toDelivery = (row: Row): Delivery => ({
  id: row.id,
  predictionId: row.prediction_id,
  event: row.event,
  attempts: row.attempts,
  createdAt: new Date(row.created_at),
  dueAt: toDate(row.due_at),
  settledAt: toDate(row.settled_at),
  error: row.error ?? undefined,
})
