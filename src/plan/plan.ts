/**
 * The decision between a wish (`FluxInput`) and the work (tensors): plain data in which nothing is
 * left open. It crosses the process border to the engine.
 */
export const variants = ['dev', 'schnell'] as const
export type Variant = (typeof variants)[number]

export const noiseSources = ['torch-cuda', 'torch-cpu'] as const
export type NoiseSource = (typeof noiseSources)[number]

export type PixelSize = { readonly width: number; readonly height: number }

export type OutputFormat = 'webp' | 'jpg' | 'png'

export type GenerationPlan = {
  readonly variant: Variant
  readonly prompt: string
  /** In pixels, both multiples of 16. */
  readonly size: PixelSize
  readonly steps: number
  readonly guidance: number
  /** Image i of the prediction starts from the noise of `seed + i`. */
  readonly seed: number
  readonly count: number
  readonly noise: NoiseSource
  readonly output: { readonly format: OutputFormat; readonly quality: number }
  /** What was decided against the letter of the wish; goes into the prediction's log. */
  readonly notes: readonly string[]
}
