/** The decision between an input and its tensors: plain data in which nothing is left open. */
export const variants = ['dev', 'schnell'] as const
export type Variant = (typeof variants)[number]

/**
 * `bf16` computes with the checkpoint's own rounding; `fp8` rounds the blocks' big layers to e4m3.
 */
export const precisions = ['bf16', 'fp8'] as const
export type Precision = (typeof precisions)[number]

export const noiseSources = ['torch-cuda', 'torch-cpu'] as const
export type NoiseSource = (typeof noiseSources)[number]

export type PixelSize = { readonly width: number; readonly height: number }

/** An image that the user sent: the file, and its size in pixels. */
export type InputImage = { readonly bytes: Uint8Array; readonly size: PixelSize }

/**
 * What the latents start from. With a mask, white is repainted and the rest put back after each
 * step.
 */
export type Start =
  | { readonly kind: 'noise' }
  | { readonly kind: 'image'; readonly image: InputImage }
  | { readonly kind: 'inpaint'; readonly image: InputImage; readonly mask: Uint8Array }

export type OutputFormat = 'webp' | 'jpg' | 'png'

/** A LoRA file on this machine, and how strongly it is applied. */
export type LoraFile = {
  /** What errors call it: a path is nothing for clients. */
  readonly name: string
  readonly path: string
  /** SHA-256 of its content, where it is known. */
  readonly digest?: string
  readonly scale: number
}

export type GenerationPlan = {
  readonly variant: Variant
  readonly precision: Precision
  readonly prompt: string
  /** In pixels, both multiples of 16. */
  readonly size: PixelSize
  readonly start: Start
  /** Merged in this order. */
  readonly loras: readonly LoraFile[]
  /**
   * The noise levels of the schedule, of which those before `firstStep` (0 without an image) are
   * left out.
   */
  readonly steps: number
  readonly firstStep: number
  readonly guidance: number
  /** Image i of the prediction starts from the noise of `seed + i`. */
  readonly seed: number
  readonly count: number
  readonly noise: NoiseSource
  readonly output: { readonly format: OutputFormat; readonly quality: number }
  /** Whether images are checked for safety before they are returned. */
  readonly checkSafety: boolean
  /** What was decided against the letter of the input; lines of the prediction's log. */
  readonly notes: readonly string[]
}

/** The part of a plan that decides which weights the networks have. */
export type WeightsPlan = Pick<GenerationPlan, 'variant' | 'precision' | 'loras'>

/** How many steps are made for each image. */
export const stepsToRun = ({ steps, firstStep }: Pick<GenerationPlan, 'steps' | 'firstStep'>) =>
  steps - firstStep
