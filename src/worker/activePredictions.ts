/**
 * The predictions that are not over, in memory: who watches them, who waits for them, and how they
 * change. A change of state is on disk before anybody is told of it; logs and outputs are written
 * with the terminal state, as a run that was interrupted is made again.
 */
import type { OutputFile, Prediction, WebhookEvent } from '../contract/prediction.js'
import { FluxdError } from '../errors.js'
import type { Work } from '../predictions/cost.js'
import {
  createEventIds,
  createEventLog,
  type EventLog,
  type PredictionListener,
  retellEvents,
} from '../predictions/eventLog.js'
import { addOutput, isTerminal, log } from '../predictions/prediction.js'
import type { Database } from '../store/sqlite/database.js'
import type { PredictionStore, StoredPrediction } from '../store/sqlite/predictions.js'

/**
 * Told of what a webhook may report; long values of the prediction's input are cut short. `start` and
 * `completed` are told inside the transaction that writes the state: what is stored then is stored
 * if and only if the state is.
 */
export type EventHook = (prediction: Prediction, kind: WebhookEvent) => void

export type Live = {
  /** As of now; long values of its input are cut short. */
  readonly prediction: () => Prediction
  readonly priority: number
  readonly work: Work
  /** Aborts when it is terminal or the server stops: whoever works on it leaves off. */
  readonly signal: AbortSignal
}

export type WaitOptions = { readonly timeoutMs?: number; readonly signal?: AbortSignal }

export type LivePredictions = {
  readonly enlist: (stored: StoredPrediction, work: Work) => void
  readonly find: (id: string) => Live | undefined
  readonly count: () => number
  readonly writeLine: (id: string, line: string) => void
  readonly addOutput: (id: string, file: OutputFile) => void
  /** Changes the state, on disk first. A terminal prediction leaves memory. Throws `storage_full`. */
  readonly advance: (id: string, change: (prediction: Prediction) => Prediction) => void
  /** Resolves when it is terminal, at the timeout, when `signal` aborts, or at `stop`. */
  readonly wait: (id: string, options: WaitOptions) => Promise<void>
  /** Undefined for one that has long been over. */
  readonly watch: (
    id: string,
    listener: PredictionListener,
    after: number | undefined,
  ) => (() => void) | undefined
  /** Interrupts all work, and lets nobody wait any longer. */
  readonly stop: () => void
}

type Entry = {
  prediction: Prediction
  readonly live: Live
  readonly events: EventLog
  readonly working: AbortController
  readonly waiting: Set<() => void>
}

// Who watches may come a little late, or come back.
const rememberedEnds = 100

export function createLivePredictions(
  database: Database,
  store: PredictionStore,
  onEvent: EventHook,
): LivePredictions {
  const entries = new Map<string, Entry>()
  const ended = new Map<string, EventLog>()
  const nextEventId = createEventIds()
  let isStopped = false

  function enlist({ prediction, priority }: StoredPrediction, work: Work): void {
    const working = new AbortController()
    const entry: Entry = {
      prediction,
      live: { prediction: () => entry.prediction, priority, work, signal: working.signal },
      events: createEventLog(nextEventId),
      working,
      waiting: new Set(),
    }
    entries.set(prediction.id, entry)
    entry.events.append({ kind: 'status', prediction })
  }

  function advance(id: string, change: (prediction: Prediction) => Prediction): void {
    const entry = entries.get(id)
    if (!entry) return
    const next = change(entry.prediction)
    const isFirstStart = next.status === 'processing' && entry.prediction.status === 'starting'
    database.commit(() => {
      store.save(next)
      if (isFirstStart) onEvent(next, 'start')
      if (isTerminal(next)) onEvent(next, 'completed')
    })
    entry.prediction = next
    if (isTerminal(next)) retire(id, entry)
    entry.events.append({ kind: 'status', prediction: next })
  }

  function retire(id: string, { events, working, waiting }: Entry): void {
    entries.delete(id)
    remember(id, events)
    working.abort()
    for (const resolve of waiting) resolve()
  }

  function remember(id: string, events: EventLog): void {
    ended.set(id, events)
    const [oldest] = ended.keys()
    if (ended.size > rememberedEnds && oldest !== undefined) ended.delete(oldest)
  }

  function update(id: string, change: (prediction: Prediction) => Prediction): Entry | undefined {
    const entry = entries.get(id)
    if (entry) entry.prediction = change(entry.prediction)
    return entry
  }

  async function wait(id: string, { timeoutMs, signal }: WaitOptions): Promise<void> {
    const entry = entries.get(id)
    // Somebody may be admitted while the server stops.
    if (!entry || signal?.aborted || isStopped) return
    await new Promise<void>((resolve) => {
      const timer = timeoutMs === undefined ? undefined : setTimeout(done, timeoutMs)
      function done() {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        entry?.waiting.delete(done)
        resolve()
      }
      signal?.addEventListener('abort', done, { once: true })
      entry.waiting.add(done)
    })
  }

  return {
    enlist,
    find: (id) => entries.get(id)?.live,
    count: () => entries.size,
    writeLine(id, line) {
      const entry = update(id, (prediction) => log(prediction, line))
      if (!entry) return
      entry.events.append({ kind: 'log', line })
      onEvent(entry.prediction, 'logs')
    },
    addOutput(id, file) {
      const entry = update(id, (prediction) => addOutput(prediction, file))
      if (!entry) return
      entry.events.append({ kind: 'output', file })
      onEvent(entry.prediction, 'output')
    },
    advance,
    wait,
    watch: (id, listener, after) =>
      (entries.get(id)?.events ?? ended.get(id))?.watch(listener, after),
    stop() {
      isStopped = true
      for (const { working, waiting } of entries.values()) {
        working.abort()
        for (const resolve of waiting) resolve()
      }
    },
  }
}

/** Tells what there is to tell of a prediction that was over long ago. */
export function retell(prediction: Prediction, listener: PredictionListener, after = 0): void {
  for (const event of retellEvents(prediction)) if (event.id > after) listener(event)
}

export const unknownPrediction = (id: string) =>
  new FluxdError('not_found', `There is no prediction ${id.slice(0, 64)}`)
