/** Whole images in the fused dialect: text encoders, transformer and decoder through the addon. */
import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../src/config/config.js'
import { loadModels } from '../../../src/engine/models/models.js'
import { type Backend, portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { drawPng, pixelsOf, sketch } from '../../embedded/studio.js'
import { generateGolden } from '../../engine/pipeline/goldenImage.js'
import { listCases } from '../../engine/pipeline/layouts.js'
import { expectOutputs, goldenCase } from '../../goldens.js'
import { fusedBackend } from './kit.js'

test.each(listCases('text_to_image'))(
  '$id from $layout is the image of diffusers, step by step',
  async ({ id, layout }) => {
    const golden = goldenCase(id)
    const { outputs } = await generateGolden(golden, layout, fusedBackend('F32'))
    expectOutputs(golden, outputs)
  },
)

describe('the embedded model', () => {
  const { checkpoints, threads } = readConfig({})
  const plan: GenerationPlan = {
    ...sketch,
    prompt: 'a red circle on a white background',
    variant: 'schnell',
    steps: 4,
    guidance: 0,
    seed: 3,
  }

  async function generateImage(precision: GenerationPlan['precision'], backend: Backend) {
    const models = await loadModels('schnell', checkpoints.schnell, { threads, backend })
    const png = await drawPng(models, { ...plan, precision })
    await models.release()
    return pixelsOf(png)
  }

  // Observed, of 255: bf16 1e-4 in float32 and 0.7 in bfloat16, fp8 1.9 and 2.4. Codes next to a
  // rounding border fall on either side, and four steps of a tiny model amplify that: fp8 and bf16
  // of the portable dialect alone differ by 2.9.
  test.each([
    ['bf16', 'F32', 0.01],
    ['bf16', 'BF16', 2],
    ['fp8', 'F32', 4],
    ['fp8', 'BF16', 4],
  ] as const)(
    'draws the image of the portable dialect: %s in %s',
    async (precision, dtype, tolerance) => {
      const portable = await generateImage(precision, portableBackend)
      const fused = await generateImage(precision, fusedBackend(dtype))
      expect(meanDifference(fused, portable)).toBeLessThan(tolerance)
    },
  )
})

const meanDifference = (got: Uint8Array, want: Uint8Array) =>
  want.reduce((sum, value, i) => sum + Math.abs(value - got[i]!), 0) / want.length
