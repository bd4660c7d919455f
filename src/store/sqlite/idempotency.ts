/** Which prediction an Idempotency-Key stands for. */
import type { Database } from './database.js'

export type IdempotentRequest = {
  /** Keys of different owners do not meet. */
  readonly owner: string
  readonly key: string
  readonly bodyDigest: string
}

export type IdempotencyTable = {
  readonly find: (
    owner: string,
    key: string,
  ) => { readonly bodyDigest: string; readonly predictionId: string } | undefined
  readonly add: (request: IdempotentRequest, predictionId: string, at: Date) => void
  /** Forgets what is older than `time`. */
  readonly forget: (time: Date) => void
}

export function createIdempotencyTable({ sqlite }: Database): IdempotencyTable {
  const select = sqlite.prepare<[string, string], { bodyDigest: string; predictionId: string }>(`
    SELECT body_digest AS bodyDigest, prediction_id AS predictionId FROM idempotency
    WHERE owner = ? AND key = ?`)
  const insert = sqlite.prepare('INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)')
  const deleteOld = sqlite.prepare<[number]>('DELETE FROM idempotency WHERE created_at < ?')
  return {
    find: (owner, key) => select.get(owner, key),
    add: ({ owner, key, bodyDigest }, predictionId, at) =>
      void insert.run(owner, key, bodyDigest, predictionId, at.getTime()),
    forget: (time) => void deleteOld.run(time.getTime()),
  }
}
