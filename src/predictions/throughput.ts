/**
 * How fast this machine is, from how long predictions took: exponentially weighted means of the
 * seconds for one step of one token and, apart from it, of what a token of an image takes besides
 * its steps. A prediction of few steps is mostly the latter, which more steps do not multiply.
 */
import { type Amount, type Cost, type CostKind, type CostTotals, listAmounts } from './cost.js'

/** Seconds of a run: in its steps, and in everything around them. */
export type Spent = { readonly steps: number; readonly rest: number }

export type Throughput = {
  readonly record: (cost: Cost, spent: Spent) => void
  /** Seconds; undefined until work of each of its kinds has been recorded. */
  readonly estimate: (load: CostTotals) => number | undefined
  /** Seconds of a step of one image of `tokens` tokens, and of all beside the steps. */
  readonly expect: (
    kind: CostKind,
    tokens: number,
  ) => { readonly step: number; readonly rest: number } | undefined
}

/** Seconds for one unit of each. */
type Rates = { readonly perStepToken: number; readonly perToken: number }

/** How much the newest measurement counts. */
const weight = 0.3

export function createThroughput(): Throughput {
  const means = new Map<CostKind, Rates>()

  return {
    record({ kind, tokens, stepTokens }, { steps, rest }) {
      const latest = { perStepToken: steps / stepTokens, perToken: rest / tokens }
      const mean = means.get(kind) ?? latest
      means.set(kind, {
        perStepToken: approach(mean.perStepToken, latest.perStepToken),
        perToken: approach(mean.perToken, latest.perToken),
      })
    },
    estimate(load) {
      let seconds = 0
      for (const [kind, amount] of listAmounts(load)) {
        const rates = means.get(kind)
        if (rates) seconds += secondsFor(amount, rates)
        // What will fail takes no time.
        else if (amount.tokens > 0) return undefined
      }
      return seconds
    },
    expect(kind, tokens) {
      const rates = means.get(kind)
      return rates && { step: tokens * rates.perStepToken, rest: tokens * rates.perToken }
    },
  }
}

const approach = (mean: number, latest: number) => mean + weight * (latest - mean)

const secondsFor = ({ tokens, stepTokens }: Amount, { perToken, perStepToken }: Rates) =>
  tokens * perToken + stepTokens * perStepToken
