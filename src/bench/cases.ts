/** What is measured: images of a variant at a precision and a size. */
import type { GenerateRequest } from '../engine/protocol.js'
import type { GenerationPlan, PixelSize, Precision, Variant } from '../plan/plan.js'

export type BenchCase = {
  readonly variant: Variant
  readonly precision: Precision
  readonly size: PixelSize
  readonly steps: number
}

export type CaseChoice = {
  readonly variants: readonly Variant[]
  readonly precisions: readonly Precision[]
  readonly sizes: readonly PixelSize[]
}

// What the published models recommend.
const usualSteps: Readonly<Record<Variant, number>> = { dev: 28, schnell: 4 }

/** Every combination; cases that use the same weights follow each other. */
export const listCases = ({ variants, precisions, sizes }: CaseChoice): BenchCase[] =>
  variants.flatMap((variant) =>
    precisions.flatMap((precision) =>
      sizes.map((size) => ({ variant, precision, size, steps: usualSteps[variant] })),
    ),
  )

/** Such as `dev bf16 1024×1024, 28 steps`. */
export const nameCase = ({ variant, precision, size, steps }: BenchCase) =>
  `${variant} ${precision} ${size.width}×${size.height}, ${steps} steps`

/** One image of a case. Another `round` has another prompt: embeddings may be cached by prompt. */
export const planOf = (
  { variant, precision, size, steps }: BenchCase,
  round = 0,
): GenerationPlan => ({
  variant,
  precision,
  size,
  steps,
  prompt: `a red circle on a blue background ${round}`,
  start: { kind: 'noise' },
  loras: [],
  firstStep: 0,
  guidance: 3,
  seed: 7,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'webp', quality: 80 },
  checkSafety: false,
  notes: [],
})

/** The engine request that gives exactly this plan. */
export const requestOf = ({ start, loras, ...plan }: GenerationPlan): GenerateRequest => ({
  draft: { ...plan, kind: 'valid', start: start.kind, loraMultiplier: 1 },
  image: start.kind === 'noise' ? undefined : start.image.bytes,
  mask: start.kind === 'inpaint' ? start.mask : undefined,
  loras,
})
