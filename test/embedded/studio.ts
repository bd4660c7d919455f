/** Pictures of the embedded model, as tests ask for them: small, few steps, as pixels. */
import sharp from 'sharp'
import type { Models } from '../../src/engine/models/models.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import type { GenerationPlan } from '../../src/plan/plan.js'

/** A picture in eight steps at 256²; tests change what they are about. */
export const sketch: GenerationPlan = {
  variant: 'dev',
  precision: 'bf16',
  prompt: 'a red circle on a green background',
  size: { width: 256, height: 256 },
  start: { kind: 'noise' },
  loras: [],
  steps: 8,
  firstStep: 0,
  guidance: 3.5,
  seed: 50,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'png', quality: 80 },
  checkSafety: false,
  notes: [],
}

/** The plan's only picture as the png that a user would get. */
export async function drawPng(models: Models, plan: GenerationPlan): Promise<Uint8Array> {
  let png: Uint8Array | undefined
  await generate(plan, models, {
    signal: new AbortController().signal,
    onProgress: () => {},
    onImage: (_, { bytes }) => {
      png = bytes
    },
  })
  return png!
}

/** A png's pixels, three bytes each. */
export const pixelsOf = (png: Uint8Array): Promise<Uint8Array> =>
  sharp(png).removeAlpha().raw().toBuffer()
