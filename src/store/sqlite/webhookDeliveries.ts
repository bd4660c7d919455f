/** Webhook deliveries in SQLite. */
import { randomUUID } from 'node:crypto'
import type { Prediction, WebhookEvent } from '../../contract/prediction.js'
import type { Attempt, Delivery, DeliveryStore } from '../deliveryStore.js'
import type { Database } from './database.js'

/** For the transactions that end a prediction. */
export type DeliveryTable = {
  /** Nothing where no webhook asks for `completed`. */
  readonly addCompleted: (prediction: Prediction) => void
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

export function createDeliveryTable({ sqlite }: Database): DeliveryTable {
  const insert = sqlite.prepare<[string, string, WebhookEvent, number, number]>(
    'INSERT INTO deliveries (id, prediction_id, event, created_at, due_at) VALUES (?, ?, ?, ?, ?)',
  )
  return {
    addCompleted({ id, webhook }) {
      if (!webhook?.events.includes('completed')) return
      const now = Date.now()
      insert.run(`msg_${randomUUID()}`, id, 'completed', now, now)
    },
  }
}

export function createDeliveryStore(database: Database, table: DeliveryTable): DeliveryStore {
  const { sqlite, write } = database
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
    addCompleted: (prediction) => write(() => table.addCompleted(prediction)),
    listPending: async (limit) => pending.all(limit).map(toDelivery),
    async record(id, attempt) {
      await write(() => update.run({ id, ...settling(attempt) }))
    },
    listOfPrediction: async (predictionId) => ofPrediction.all(predictionId).map(toDelivery),
    async removeSettled(time) {
      await write(() => forget.run(time.getTime()))
    },
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
