/** Where a prediction stands, and how long it will take until it is done. */

import { addWork, type Load, noLoad, type Work } from './cost.js'
import type { Pace } from './throughput.js'

export type Outlook = {
  /** How many come before it; 0 when it runs. */
  readonly position: number
  /** Until it is done; absent until a prediction of each kind before it has been measured. */
  readonly etaSeconds?: number | undefined
}

/** What waits before a prediction, and what it and they come to. */
export type Waiting = { readonly before: number; readonly load: Load }

export type Running = {
  readonly work: Work
  /** For how long it has been running. */
  readonly seconds: number
}

/** The outlook of a prediction that waits while `running` runs or, without `waiting`, of that itself. */
export function lookAhead(
  pace: Pace,
  running: Running | undefined,
  waiting: Waiting | undefined,
): Outlook {
  const seconds = pace.estimate(waiting?.load ?? noLoad)
  const rest = running ? remaining(pace, running) : 0
  const etaSeconds = seconds === undefined || rest === undefined ? undefined : rest + seconds
  const position = waiting ? waiting.before + (running ? 1 : 0) : 0
  return { position, ...(etaSeconds !== undefined && { etaSeconds }) }
}

/** One that takes longer than it should is about to end. */
function remaining(pace: Pace, { work, seconds }: Running): number | undefined {
  const whole = pace.estimate(addWork(noLoad, work))
  return whole === undefined ? undefined : Math.max(0, whole - seconds)
}
