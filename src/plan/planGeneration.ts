/**
 * From wish to decision: every rule of the contract is applied here, once. Pure: the caller draws
 * the random seed, and fetches and measures the images.
 * Source: cog-flux predict.py, HotswapPredictor.predict.
 */
import type { FluxInput } from '../contract/input.js'
import { invalidInput } from '../errors.js'
import { chooseLoras, type LoraFiles, notePromotion } from './loras.js'
import type {
  GenerationPlan,
  InputImage,
  NoiseSource,
  Precision,
  Start,
  WeightsPlan,
} from './plan.js'
import { pythonFloat } from './pythonFloat.js'
import { chooseSize, fitImage } from './sizing.js'

export type Circumstances = {
  /** What the wish's LoRA references turned out to be. Default: none. */
  readonly loras?: LoraFiles | undefined
  /** What LoRA scales are multiplied by in fp8. */
  readonly goFastLoraMultiplier: number
  /** Counts when the wish names no seed, or a negative one. */
  readonly drawnSeed: number
  readonly noise: NoiseSource
  /** Whether one is installed; without one, nothing is checked. */
  readonly safetyChecker: boolean
  /** What the wish's `image` and `mask` turned out to be. */
  readonly image?: InputImage | undefined
  readonly mask?: Uint8Array | undefined
}

/**
 * What is to be done for `input`. Steps are the user's for both models (schnell is not clamped to
 * 4), guidance has no effect on schnell, and seed 0 is a seed.
 * A `custom` size must be complete even where an image decides the size, as in the reference.
 * Throws `invalid_input` for `custom` without a size and for a strength that leaves no step.
 */
export function planGeneration(input: FluxInput, circumstances: Circumstances): GenerationPlan {
  const wishedSize = chooseSize(input)
  const start = chooseStart(circumstances)
  return {
    ...planWeights(input, circumstances),
    prompt: input.prompt,
    size: start.kind === 'noise' ? wishedSize : fitImage(start.image.size),
    start,
    steps: input.num_inference_steps,
    firstStep: start.kind === 'noise' ? 0 : chooseFirstStep(input),
    guidance: input.model === 'schnell' ? 0 : input.guidance_scale,
    seed: chooseSeed(input.seed, circumstances.drawnSeed),
    count: input.num_outputs,
    noise: circumstances.noise,
    output: { format: input.output_format, quality: input.output_quality },
    checkSafety: circumstances.safetyChecker && !input.disable_safety_checker,
    notes: [...notePromotion(input, circumstances.loras), ...listNotes(input, circumstances)],
  }
}

/** What of a plan is known before its images are there. */
export function planWeights(
  input: FluxInput,
  { loras, goFastLoraMultiplier }: Pick<Circumstances, 'loras' | 'goFastLoraMultiplier'>,
): WeightsPlan {
  const precision = choosePrecision(input)
  const multiplier = precision === 'fp8' ? goFastLoraMultiplier : 1
  return { variant: input.model, precision, loras: chooseLoras(input, loras, multiplier) }
}

/** Throws what `planGeneration` would, as far as it can be seen before the images are there. */
export function checkWish(input: FluxInput): void {
  chooseSize(input)
  if (input.image !== undefined) chooseFirstStep(input)
}

/**
 * A custom size overrides `go_fast`, as published. An image does not: the reference falls back to
 * bf16 there, of which the contract says nothing.
 */
const choosePrecision = (input: FluxInput): Precision =>
  input.go_fast && input.aspect_ratio !== 'custom' ? 'fp8' : 'bf16'

/** A mask counts only with an image. */
function chooseStart({ image, mask }: Circumstances): Start {
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
    `After adjusting the num_inference_steps by strength parameter: ${pythonFloat(s)}, the number of ` +
      `pipelinesteps is ${n - first} which is < 1 and not appropriate for this pipeline.`,
  )
}

const chooseSeed = (wished: number | undefined, drawn: number) =>
  wished === undefined || wished < 0 ? drawn : wished

function listNotes(input: FluxInput, { safetyChecker }: Circumstances): string[] {
  const notes: string[] = []
  if (input.go_fast && input.aspect_ratio === 'custom')
    notes.push('Custom aspect ratios not supported with fast fp8 inference; will run in bf16')
  if (input.mask !== undefined && input.image === undefined)
    notes.push('There is a mask but no image: the mask is ignored')
  if (!safetyChecker && !input.disable_safety_checker)
    notes.push('No safety checker is installed: the output is not checked')
  return notes
}
