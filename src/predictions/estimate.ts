/** Where a prediction stands, and how long it will take until it is done. */
import { addCost, type Cost, type CostTotals, noCost } from './cost.js'
import type { Throughput } from './throughput.js'

export type QueueEstimate = {
  /** How many come before it; 0 when it runs. */
  readonly position: number
  /** Until it is done; absent until a prediction of each kind before it has been measured. */
  readonly etaSeconds?: number | undefined
}

/** What a prediction waits for: how many come before it, and what those and it come to. */
export type Waiting = { readonly before: number; readonly cost: CostTotals }

export type Running = {
  readonly cost: Cost
  /** For how long it has been running. */
  readonly seconds: number
}

/**
 * The estimate of a prediction that waits behind `running` or, without `waiting`, of one of those
 * itself: the first. `executors` share what comes before it.
 */
export function estimateQueue(
  throughput: Pick<Throughput, 'estimate'>,
  running: readonly Running[],
  waiting: Waiting | undefined,
  executors = 1,
): QueueEstimate {
  const position = waiting ? waiting.before + running.length : 0
  const seconds = throughput.estimate(waiting?.cost ?? noCost)
  const rest = sum(
    (waiting ? running : running.slice(0, 1)).map((one) => remaining(throughput, one)),
  )
  if (seconds === undefined || rest === undefined) return { position }
  return { position, etaSeconds: (rest + seconds) / (waiting ? Math.max(1, executors) : 1) }
}

/** One that takes longer than it should is about to end. */
function remaining(
  throughput: Pick<Throughput, 'estimate'>,
  { cost, seconds }: Running,
): number | undefined {
  const whole = throughput.estimate(addCost(noCost, cost))
  return whole === undefined ? undefined : Math.max(0, whole - seconds)
}

/** Undefined when one of them is. */
function sum(values: readonly (number | undefined)[]): number | undefined {
  let total = 0
  for (const value of values) {
    if (value === undefined) return undefined
    total += value
  }
  return total
}
