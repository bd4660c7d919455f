/** Whole images from prompt and seed: equal to diffusers' FluxPipeline (float32, CPU). */
import { beforeAll, describe, test } from 'vitest'
import { portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { expectClose, expectOutputs, goldenCase } from '../../goldens.js'
import { generateGolden } from './goldenImage.js'
import { listCases, noiseTolerance } from './layouts.js'

const cases = listCases('text_to_image')

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  const golden = goldenCase(id)
  let got: Awaited<ReturnType<typeof generateGolden>>

  beforeAll(async () => {
    got = await generateGolden(golden, layout, portableBackend)
  })

  test('the noise is that of torch', () => {
    expectClose(got.noise, golden.inputs['noise']!.data, noiseTolerance)
  })

  test('every step, the final latents and the pixels are those of diffusers', () => {
    expectClose(got.sigmas, golden.inputs['sigmas']!.data, 1e-6)
    expectOutputs(golden, got.outputs)
  })
})
