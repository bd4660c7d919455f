/**
 * What a finished prediction leaves behind is removed when its time is over: input, log, output and
 * images. The record stays and says so (C-3.4).
 */
import type { Files } from '../../files/files.js'
import type { PredictionStore } from '../../store/predictionStore.js'

export type RetentionOptions = {
  readonly store: Pick<PredictionStore, 'listToClear' | 'clear' | 'forgetIdempotencyKeys'>
  readonly files: Pick<Files, 'removeOfPrediction' | 'removeExpired'>
  /** 0: for ever. */
  readonly retentionMs: number
  readonly onFault: (error: unknown) => void
}

const longestPauseMs = 60_000
const batch = 100
// A client that repeats a request does so soon.
const idempotencyMs = 24 * 60 * 60 * 1000

/** Clears what is due, now and again; returns how to stop. */
export function startRetention(options: RetentionOptions): () => void {
  const { retentionMs } = options
  const pauseMs =
    retentionMs === 0 ? longestPauseMs : Math.min(longestPauseMs, Math.max(1000, retentionMs / 4))
  let timer: NodeJS.Timeout | undefined
  let isStopped = false

  function run(): void {
    clearDue(options)
      .catch((error: unknown) => isStopped || options.onFault(error))
      .finally(() => {
        if (!isStopped) timer = setTimeout(run, pauseMs).unref()
      })
  }

  run()
  return () => {
    isStopped = true
    clearTimeout(timer)
  }
}

async function clearDue({ store, files, retentionMs }: RetentionOptions): Promise<void> {
  const nowMs = Date.now()
  await files.removeExpired()
  await store.forgetIdempotencyKeys(new Date(nowMs - idempotencyMs))
  if (retentionMs === 0) return
  const due = new Date(nowMs - retentionMs)
  for (;;) {
    const ids = await store.listToClear(due, batch)
    // Files first: a record that still names them is found again after a crash.
    for (const id of ids) await files.removeOfPrediction(id)
    await store.clear(ids)
    if (ids.length < batch) return
  }
}
