/**
 * The events of a prediction. Ids rise, also over a restart of the server, so that a watcher that
 * comes back can say what it has seen.
 */
import type { OutputFile, Prediction } from '../contract/prediction.js'
import { isTerminal } from './prediction.js'

export type EventPayload =
  /** Its state changed; a terminal state is the last event. */
  | { readonly kind: 'status'; readonly prediction: Prediction }
  /** `line` without its newline. */
  | { readonly kind: 'log'; readonly line: string }
  | { readonly kind: 'output'; readonly file: OutputFile }

export type PredictionEvent = EventPayload & { readonly id: number }
export type PredictionListener = (event: PredictionEvent) => void

export type EventLog = {
  readonly append: (payload: EventPayload) => void
  /** Replays what came after the event `after`, then sends what comes; returns how to stop. */
  readonly watch: (listener: PredictionListener, after?: number) => () => void
}

// As much as Cog replays (COG_STREAM_HISTORY_CAPACITY).
const historyLength = 1024
const perMs = 1024

export function createEventLog(nextId: () => number): EventLog {
  const history: PredictionEvent[] = []
  const listeners = new Set<PredictionListener>()
  return {
    append(payload) {
      const event = { ...payload, id: nextId() }
      history.push(event)
      if (history.length > historyLength) history.shift()
      for (const listener of [...listeners]) listener(event)
    },
    watch(listener, after = 0) {
      listeners.add(listener)
      for (const event of history) if (event.id > after) listener(event)
      return () => {
        listeners.delete(listener)
      }
    },
  }
}

/** Ids that rise faster than the clock of the next server starts. */
export function createEventIds(now = Date.now): () => number {
  let last = 0
  return () => {
    last = Math.max(last + 1, now() * perMs)
    return last
  }
}

/** The first event of every prediction: it was admitted. */
export const admissionEvent = (prediction: Prediction): PredictionEvent => ({
  kind: 'status',
  prediction: { ...prediction, status: 'starting' },
  id: prediction.createdAt.getTime() * perMs,
})

/** The events of a prediction that ended before this server started, or long ago. */
export function replayEvents(prediction: Prediction): PredictionEvent[] {
  if (!isTerminal(prediction)) return []
  const firstId = (prediction.completedAt ?? prediction.createdAt).getTime() * perMs
  const lines = prediction.logs.split('\n').slice(0, -1)
  const payloads: EventPayload[] = [
    ...lines.map((line) => ({ kind: 'log' as const, line })),
    ...(prediction.output ?? []).map((file) => ({ kind: 'output' as const, file })),
    { kind: 'status', prediction },
  ]
  return payloads.map((payload, index) => ({ ...payload, id: firstId + index }))
}
