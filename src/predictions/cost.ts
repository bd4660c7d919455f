/** How much there is to do, in units whose seconds can be measured: see pace.ts. */
import type { FluxInput } from '../contract/input.js'
import { type GenerationPlan, type Precision, stepsToRun, type Variant } from '../plan/plan.js'
import { planGeneration } from '../plan/planGeneration.js'

/** What takes the same time for the same amount. */
export type WorkKind = `${Variant} ${Precision}`

export type Amount = {
  /** Over all pictures. */
  readonly tokens: number
  /** Steps times tokens. */
  readonly stepTokens: number
}

export type Work = Amount & { readonly kind: WorkKind }

/** Works added up, each kind for itself. */
export type Load = { readonly [Kind in WorkKind]?: Amount }

export const noLoad: Load = {}

export const addWork = (load: Load, { kind, tokens, stepTokens }: Work): Load => ({
  ...load,
  [kind]: addAmounts(load[kind], { tokens, stepTokens }),
})

export const addLoads = (a: Load, b: Load): Load =>
  listAmounts(b).reduce((sum, [kind, amount]) => addWork(sum, { kind, ...amount }), a)

export const listAmounts = (load: Load) => Object.entries(load) as [WorkKind, Amount][]

const addAmounts = (a: Amount | undefined, b: Amount): Amount =>
  a ? { tokens: a.tokens + b.tokens, stepTokens: a.stepTokens + b.stepTokens } : b

export function workOf(plan: GenerationPlan): Work {
  const tokens = ((plan.size.width * plan.size.height) / 256) * plan.count
  return {
    kind: `${plan.variant} ${plan.precision}`,
    tokens,
    stepTokens: stepsToRun(plan) * tokens,
  }
}

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
  return plan ? workOf(plan) : { kind: `${input.model} bf16`, tokens: 0, stepTokens: 0 }
}
