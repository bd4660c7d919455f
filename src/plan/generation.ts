/**
 * From wish to decision: every rule of the contract that a text-to-picture prediction needs is
 * applied here, once. Pure: the random seed is drawn by the caller.
 * Source: cog-flux predict.py, HotswapPredictor.predict.
 */
import type { FluxInput } from '../contract/input.js'
import { notSupported } from '../errors.js'
import type { GenerationPlan, NoiseSource } from './plan.js'
import { chooseSize } from './sizing.js'

export type Circumstances = {
  /** Counts when the wish names no seed, or a negative one. */
  readonly drawnSeed: number
  readonly noise: NoiseSource
}

/**
 * What is to be done for `input`. Steps are the user's for both models (schnell is not clamped to
 * 4), guidance has no effect on schnell, and seed 0 is a seed.
 * Throws `not_supported` for a field whose mode is missing, `invalid_input` for `custom` without a size.
 */
export function planGeneration(input: FluxInput, circumstances: Circumstances): GenerationPlan {
  refuseMissingModes(input)
  return {
    variant: input.model,
    prompt: input.prompt,
    size: chooseSize(input),
    steps: input.num_inference_steps,
    guidance: input.model === 'schnell' ? 0 : input.guidance_scale,
    seed: chooseSeed(input.seed, circumstances.drawnSeed),
    count: input.num_outputs,
    noise: circumstances.noise,
    output: { format: input.output_format, quality: input.output_quality },
    notes: listNotes(input),
  }
}

/** An empty LoRA reference means none, as in the reference. */
function refuseMissingModes(input: FluxInput): void {
  if (input.image !== undefined) throw notSupported('image')
  if (input.mask !== undefined) throw notSupported('mask')
  if (input.replicate_weights) throw notSupported('replicate_weights')
  if (input.extra_lora) throw notSupported('extra_lora')
  if (input.go_fast && !runsInBf16(input)) throw notSupported('go_fast')
}

const chooseSeed = (wished: number | undefined, drawn: number) =>
  wished === undefined || wished < 0 ? drawn : wished

function listNotes(input: FluxInput): string[] {
  const notes: string[] = []
  if (input.go_fast && runsInBf16(input))
    notes.push('Custom aspect ratios not supported with fast fp8 inference; will run in bf16')
  if (!input.disable_safety_checker)
    notes.push('No safety checker is installed: the output is not checked')
  return notes
}

/** A custom size overrides `go_fast`: a note, not an error. */
const runsInBf16 = (input: FluxInput) => input.aspect_ratio === 'custom'
