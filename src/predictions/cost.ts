/** How much there is to do, in units whose seconds can be measured: see throughput.ts. */
import { type GenerationPlan, type Precision, stepsToRun, type Variant } from '../plan/plan.js'
import type { PlanDraft } from '../plan/planGeneration.js'

/** What takes the same time for the same amount. */
export type CostKind = `${Variant} ${Precision}`

export type Amount = {
  /** Over all images. */
  readonly tokens: number
  /** Steps times tokens. */
  readonly stepTokens: number
}

export type Cost = Amount & { readonly kind: CostKind }

/** Works added up, each kind for itself. */
export type CostTotals = { readonly [Kind in CostKind]?: Amount }

export const noCost: CostTotals = {}

export const addCost = (load: CostTotals, { kind, tokens, stepTokens }: Cost): CostTotals => ({
  ...load,
  [kind]: addAmounts(load[kind], { tokens, stepTokens }),
})

export const listAmounts = (load: CostTotals) => Object.entries(load) as [CostKind, Amount][]

const addAmounts = (a: Amount | undefined, b: Amount): Amount =>
  a ? { tokens: a.tokens + b.tokens, stepTokens: a.stepTokens + b.stepTokens } : b

/** What a plan costs; of a draft, as far as it is known before its image is. */
export function costOf(
  plan: Pick<GenerationPlan, 'variant' | 'precision' | 'size' | 'count' | 'steps' | 'firstStep'>,
): Cost {
  const tokens = ((plan.size.width * plan.size.height) / 256) * plan.count
  return {
    kind: `${plan.variant} ${plan.precision}`,
    tokens,
    stepTokens: stepsToRun(plan) * tokens,
  }
}

/** Nothing for what will fail. */
export const draftCost = (draft: PlanDraft, variant: Variant): Cost =>
  draft.kind === 'valid' ? costOf(draft) : { kind: `${variant} bf16`, tokens: 0, stepTokens: 0 }
