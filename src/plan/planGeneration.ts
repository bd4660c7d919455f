/**
 * From request to plan: every rule of the contract is applied here, once. `draftPlan` decides what
 * follows from the input alone, when a prediction is admitted or claimed; `finishPlan` adds what
 * the image and the LoRA files turn out to be, in the engine. Both are pure. Source: cog-flux
 * predict.py, HotswapPredictor.predict.
 */
import type { FluxInput } from '../contract/input.js'
import { FluxdError, invalidInput } from '../errors.js'
import type { LoraRef } from './loraRef.js'
import { notePromotion, pythonFloat } from './loras.js'
import type {
  GenerationPlan,
  InputImage,
  LoraFile,
  NoiseSource,
  Precision,
  Start,
  WeightsPlan,
} from './plan.js'
import { chooseSize, fitImage } from './sizing.js'

/** What the server's settings decide for every plan. */
export type PlanSettings = {
  readonly noise: NoiseSource
  /** What LoRA scales are multiplied by in fp8. */
  readonly goFastLoraMultiplier: number
  /** Whether one is installed; without one, nothing is checked. */
  readonly safetyChecker: boolean
}

export type PlanDraft =
  | ValidDraft
  /** Accepted, and failed with this when its turn comes, as published. */
  | { readonly kind: 'invalid'; readonly error: FluxdError }

export type ValidDraft = Omit<GenerationPlan, 'start' | 'loras'> & {
  readonly kind: 'valid'
  /**
   * What the latents start from; an image decides the size, which is the input's own until then.
   */
  readonly start: Start['kind']
  /** What the scales of LoRA files are multiplied by. */
  readonly loraMultiplier: number
}

/** What a draft's references turned out to be. */
export type FoundAssets = {
  readonly image?: InputImage | undefined
  readonly mask?: Uint8Array | undefined
  /** In the order of the request's; each at its scale. */
  readonly loras: readonly LoraFile[]
}

/**
 * What is to be done for `input`, whose seed is resolved. Steps are the user's for both models
 * (schnell is not clamped to 4), guidance has no effect on schnell, and seed 0 is a seed.
 * A `custom` size must be complete even where an image decides the size, as in the reference.
 * `invalid` for `custom` without a size and for a strength that leaves no step.
 */
export function draftPlan(
  input: FluxInput,
  loras: readonly Pick<LoraRef, 'role'>[],
  settings: PlanSettings,
): PlanDraft {
  try {
    return draftValid(input, loras, settings)
  } catch (error) {
    if (error instanceof FluxdError) return { kind: 'invalid', error }
    throw error
  }
}

function draftValid(
  input: FluxInput,
  loras: readonly Pick<LoraRef, 'role'>[],
  settings: PlanSettings,
): ValidDraft {
  const precision = choosePrecision(input)
  const start = chooseStart(input)
  return {
    kind: 'valid',
    variant: input.model,
    precision,
    loraMultiplier: precision === 'fp8' ? settings.goFastLoraMultiplier : 1,
    prompt: input.prompt,
    size: chooseSize(input),
    start,
    steps: input.num_inference_steps,
    firstStep: start === 'noise' ? 0 : chooseFirstStep(input),
    guidance: input.model === 'schnell' ? 0 : input.guidance_scale,
    seed: input.seed ?? 0,
    count: input.num_outputs,
    noise: settings.noise,
    output: { format: input.output_format, quality: input.output_quality },
    checkSafety: settings.safetyChecker && !input.disable_safety_checker,
    notes: [...notePromotion(input, loras), ...listNotes(input, settings)],
  }
}

/** The plan of a draft. Throws `invalid_input` for an image whose sides differ too much. */
export function finishPlan(
  { kind: _kind, loraMultiplier, ...draft }: ValidDraft,
  found: FoundAssets,
): GenerationPlan {
  const start = findStart(found)
  return {
    ...draft,
    size: start.kind === 'noise' ? draft.size : fitImage(start.image.size),
    start,
    loras: multiplyScales(found.loras, loraMultiplier),
  }
}

/** What of a plan decides the weights, before its image is there. */
export const planWeights = (
  { variant, precision, loraMultiplier }: ValidDraft,
  loras: readonly LoraFile[],
): WeightsPlan => ({ variant, precision, loras: multiplyScales(loras, loraMultiplier) })

const multiplyScales = (loras: readonly LoraFile[], multiplier: number): LoraFile[] =>
  loras.map((lora) => ({ ...lora, scale: lora.scale * multiplier }))

/**
 * A custom size overrides `go_fast`, as published. An image does not: the reference falls back to
 * bf16 there, of which the contract says nothing.
 */
const choosePrecision = (input: FluxInput): Precision =>
  input.go_fast && input.aspect_ratio !== 'custom' ? 'fp8' : 'bf16'

/** A mask counts only with an image. */
function chooseStart({ image, mask }: FluxInput): Start['kind'] {
  if (image === undefined) return 'noise'
  return mask === undefined ? 'image' : 'inpaint'
}

function findStart({ image, mask }: FoundAssets): Start {
  if (!image) return { kind: 'noise' }
  return mask ? { kind: 'inpaint', image, mask } : { kind: 'image', image }
}

/**
 * How many steps a strength s leaves out of N: the formula of diffusers, in its order, as its
 * rounding decides (10 steps at 0.8 leave out 2). Throws when it leaves no step, with its words.
 */
function chooseFirstStep({ num_inference_steps: n, prompt_strength: s }: FluxInput): number {
  const first = Math.trunc(Math.max(n - Math.min(n * s, n), 0))
  if (first < n) return first
  throw invalidInput(
    `After adjusting the num_inference_steps by strength parameter: ${pythonFloat(s)}, the ` +
      `number of pipelinesteps is ${n - first} which is < 1 and not appropriate for this pipeline.`,
  )
}

function listNotes(input: FluxInput, { safetyChecker }: PlanSettings): string[] {
  const notes: string[] = []
  if (input.go_fast && input.aspect_ratio === 'custom')
    notes.push('Custom aspect ratios not supported with fast fp8 inference; will run in bf16')
  if (input.mask !== undefined && input.image === undefined)
    notes.push('There is a mask but no image: the mask is ignored')
  if (!safetyChecker && !input.disable_safety_checker)
    notes.push('No safety checker is installed: the output is not checked')
  return notes
}
