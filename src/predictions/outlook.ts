/**
 * How long a prediction will take, from how long others took: an exponentially weighted mean of the
 * seconds for one step of one token, for each model and precision.
 */
import type { FluxInput } from '../contract/input.js'
import { planGeneration } from '../plan/generation.js'
import { type GenerationPlan, type Precision, stepsToRun, type Variant } from '../plan/plan.js'

/** Steps times tokens over all pictures, of one kind. */
export type Work = { readonly kind: `${Variant} ${Precision}`; readonly amount: number }

export type Pace = {
  readonly record: (work: Work, seconds: number) => void
  /** Undefined until work of this kind has been recorded. */
  readonly estimate: (work: Work) => number | undefined
}

/** How much the newest measurement counts. */
const weight = 0.3

export function createPace(): Pace {
  const secondsPerUnit = new Map<Work['kind'], number>()
  return {
    record({ kind, amount }, seconds) {
      const latest = seconds / amount
      const mean = secondsPerUnit.get(kind) ?? latest
      secondsPerUnit.set(kind, mean + weight * (latest - mean))
    },
    estimate({ kind, amount }) {
      const rate = secondsPerUnit.get(kind)
      return rate === undefined ? undefined : rate * amount
    },
  }
}

export const workOf = (plan: GenerationPlan): Work => ({
  kind: `${plan.variant} ${plan.precision}`,
  amount: stepsToRun(plan) * ((plan.size.width * plan.size.height) / 256) * plan.count,
})

/** The plan of a wish as far as it is known before its image is; undefined where there is none. */
export function foreseePlan(input: FluxInput, safetyChecker: boolean): GenerationPlan | undefined {
  const withoutFiles = { ...input, image: undefined, mask: undefined }
  const circumstances = { drawnSeed: 0, noise: 'torch-cuda', goFastLoraMultiplier: 1 } as const
  try {
    return planGeneration(withoutFiles, { ...circumstances, safetyChecker })
  } catch {
    return undefined
  }
}

/** The work of a wish as far as it is known: none where it will fail. */
export function foreseeWork(input: FluxInput): Work {
  const plan = foreseePlan(input, false)
  return plan ? workOf(plan) : { kind: `${input.model} bf16`, amount: 0 }
}

export type Outlook = {
  /** How many come before it; 0 when it runs. */
  readonly position: number
  /** Until it is done; absent until a prediction of each kind before it has been measured. */
  readonly etaSeconds?: number | undefined
}

/** The outlook after the work `before` it, of which the first has been running for `elapsed` seconds. */
export function lookAhead(
  pace: Pace,
  before: readonly Work[],
  own: Work,
  elapsed: number,
): Outlook {
  const etaSeconds = sumEstimates(pace, [...before, own], elapsed)
  return { position: before.length, ...(etaSeconds !== undefined && { etaSeconds }) }
}

/** Seconds for all of `works`; undefined where one of them cannot be foretold. */
function sumEstimates(pace: Pace, works: readonly Work[], elapsed: number): number | undefined {
  let sum = 0
  let done = elapsed
  for (const work of works) {
    const seconds = pace.estimate(work)
    if (seconds === undefined) return undefined
    sum += Math.max(0, seconds - done)
    // Only the first one runs.
    done = 0
  }
  return sum
}
