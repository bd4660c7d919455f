/**
 * What happens to a prediction, for those who watch it. Ids rise, also over a restart of the server,
 * so that a watcher who comes back can say what it has seen.
 */
import type { OutputFile, Prediction } from '../contract/prediction.js'
import { isTerminal } from './prediction.js'

export type Happening =
  /** Its state changed; a terminal state is the last event. */
  | { readonly kind: 'status'; readonly prediction: Prediction }
  /** `line` without its newline. */
  | { readonly kind: 'log'; readonly line: string }
  | { readonly kind: 'output'; readonly file: OutputFile }

export type PredictionEvent = Happening & { readonly id: number }
export type PredictionListener = (event: PredictionEvent) => void

export type EventLog = {
  readonly append: (happening: Happening) => void
  /** Tells what came after the event `after`, then what comes; returns how to stop. */
  readonly watch: (listener: PredictionListener, after?: number) => () => void
}

// As much as Cog replays (COG_STREAM_HISTORY_CAPACITY).
const historyLength = 1024

export function createEventLog(nextId: () => number): EventLog {
  const history: PredictionEvent[] = []
  const listeners = new Set<PredictionListener>()
  return {
    append(happening) {
      const event = { ...happening, id: nextId() }
      history.push(event)
      if (history.length > historyLength) history.shift()
      for (const listener of [...listeners]) listener(event)
    },
    watch(listener, after = 0) {
      listeners.add(listener)
      for (const event of history) if (event.id > after) listener(event)
      return () => void listeners.delete(listener)
    },
  }
}

/** Ids that rise faster than the clock of the next server starts. */
export function createEventIds(now = Date.now): () => number {
  let last = 0
  return () => {
    last = Math.max(last + 1, now() * 1024)
    return last
  }
}

/** The events of a prediction that ended before this server started, or long ago. */
export function retellEvents(prediction: Prediction): PredictionEvent[] {
  if (!isTerminal(prediction)) return []
  const firstId = (prediction.completedAt ?? prediction.createdAt).getTime() * 1024
  const lines = prediction.logs.split('\n').slice(0, -1)
  const happenings: Happening[] = [
    ...lines.map((line) => ({ kind: 'log' as const, line })),
    ...(prediction.output ?? []).map((file) => ({ kind: 'output' as const, file })),
    { kind: 'status', prediction },
  ]
  return happenings.map((happening, index) => ({ ...happening, id: firstId + index }))
}
