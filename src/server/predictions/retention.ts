/**
 * What a finished prediction leaves behind is removed when its time is over: input, log, output and
 * the pictures. The record stays and says so (replicate-contract §3.4).
 */
import type { Files } from '../../files/files.js'
import type { Database } from '../../store/sqlite/database.js'
import { createIdempotencyStore } from '../../store/sqlite/idempotency.js'
import { createPredictionStore } from '../../store/sqlite/predictions.js'

export type RetentionOptions = {
  readonly database: Database
  readonly files: Pick<Files, 'removeOfPrediction' | 'removeExpired'>
  /** 0: for ever. */
  readonly retentionMs: number
  readonly onFault: (error: unknown) => void
}

const longestPauseMs = 60_000
const batch = 100
/** A client that repeats a request does so soon. */
const idempotencyMs = 24 * 60 * 60 * 1000

/** Clears what is due, now and again; returns how to stop. */
export function startRetention(options: RetentionOptions): () => void {
  const { retentionMs } = options
  const pauseMs =
    retentionMs === 0 ? longestPauseMs : Math.min(longestPauseMs, Math.max(1000, retentionMs / 4))
  let timer: NodeJS.Timeout | undefined
  let isStopped = false

  async function clearAndWait() {
    await clearOnce(options).catch(options.onFault)
    if (!isStopped) timer = setTimeout(clearAndWait, pauseMs).unref()
  }

  void clearAndWait()
  return () => {
    isStopped = true
    clearTimeout(timer)
  }
}

/** Clears everything whose time is over at `now`. */
export async function clearOnce(options: RetentionOptions, now = new Date()): Promise<void> {
  const { database, files, retentionMs } = options
  const store = createPredictionStore(database)
  await files.removeExpired()
  createIdempotencyStore(database).forget(new Date(now.getTime() - idempotencyMs))
  if (retentionMs === 0) return
  const due = new Date(now.getTime() - retentionMs)
  for (;;) {
    const ids = store.listToClear(due, batch)
    // Files first: a record that still names them is found again after a crash.
    for (const id of ids) await files.removeOfPrediction(id)
    database.commit(() => ids.forEach(store.clear))
    if (ids.length < batch) return
  }
}
