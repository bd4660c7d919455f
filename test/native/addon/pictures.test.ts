/** Whole pictures in the fused dialect: text encoders, transformer and decoder through the addon. */
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { readConfig } from '../../../src/config.js'
import { generate } from '../../../src/pipeline/generate.js'
import { loadModels } from '../../../src/pipeline/models.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { type Backend, portableBackend } from '../../../src/runtime/backend.js'
import { expectOutputs, goldenCase } from '../../goldens.js'
import { drawPicture } from '../../pipeline/goldenPicture.js'
import { listCases } from '../../pipeline/layouts.js'
import { fusedBackend } from './kit.js'

test.each(listCases('text_to_image'))(
  '$id from $layout is the picture of diffusers, step by step',
  async ({ id, layout }) => {
    const golden = goldenCase(id)
    const { outputs } = await drawPicture(golden, layout, fusedBackend('F32'))
    expectOutputs(golden, outputs)
  },
)

describe('the embedded model', () => {
  const { checkpoints, threads } = readConfig({})
  const plan: GenerationPlan = {
    variant: 'schnell',
    precision: 'bf16',
    prompt: 'a red circle on a white background',
    size: { width: 256, height: 256 },
    start: { kind: 'noise' },
    loras: [],
    steps: 4,
    firstStep: 0,
    guidance: 0,
    seed: 3,
    count: 1,
    noise: 'torch-cuda',
    output: { format: 'png', quality: 80 },
    checkSafety: false,
    notes: [],
  }

  async function draw(precision: GenerationPlan['precision'], backend: Backend) {
    const models = await loadModels('schnell', checkpoints.schnell, { threads, backend })
    let bytes: Uint8Array = new Uint8Array()
    await generate({ ...plan, precision }, models, {
      signal: new AbortController().signal,
      onProgress: () => {},
      onImage: (_, encoded) => {
        bytes = encoded.bytes
      },
    })
    await models.release()
    return sharp(bytes).removeAlpha().raw().toBuffer()
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
    'draws the picture of the portable dialect: %s in %s',
    async (precision, dtype, tolerance) => {
      const portable = await draw(precision, portableBackend)
      const fused = await draw(precision, fusedBackend(dtype))
      expect(meanDifference(fused, portable)).toBeLessThan(tolerance)
    },
  )
})

const meanDifference = (got: Uint8Array, want: Uint8Array) =>
  want.reduce((sum, value, i) => sum + Math.abs(value - got[i]!), 0) / want.length
