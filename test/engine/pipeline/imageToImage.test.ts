/** Image to image, with and without a mask: equal to diffusers' pipelines (float32, CPU). */
import { beforeAll, describe, expect, test } from 'vitest'
import { FluxInput } from '../../../src/contract/input.js'
import { loadClip, loadT5 } from '../../../src/engine/models/textEncoders.js'
import { loadTransformer } from '../../../src/engine/models/transformer.js'
import { loadDecoder, loadEncoder } from '../../../src/engine/models/vae.js'
import { denoise } from '../../../src/engine/pipeline/denoise.js'
import { prepare } from '../../../src/engine/pipeline/generate.js'
import { prepareInitLatents } from '../../../src/engine/pipeline/initLatents.js'
import { packLatents, tokenGrid, unpackLatents } from '../../../src/engine/pipeline/latents.js'
import { startNoise } from '../../../src/engine/pipeline/rng/randn.js'
import { stepsToRun } from '../../../src/plan/plan.js'
import { draftPlan, finishPlan } from '../../../src/plan/planGeneration.js'
import { expectClose, expectOutputs, type GoldenCase, goldenCase } from '../../goldens.js'
import { fromRgb } from '../images/images.js'
import { checkpoints, listCases, noiseTolerance } from './layouts.js'

const options = { threads: 1, widenWeights: 'load' } as const

const cases = listCases('image_to_image', 'inpaint')

/** The plan of a case, with the images as the files of a request. */
async function planCase({ model, params, inputs }: GoldenCase) {
  const { prompt, width, height, steps, strength, g, seed } = params
  const size = { width, height }
  const input = FluxInput.parse({
    prompt,
    image: 'data:',
    model: model === 'tiny-dev' ? 'dev' : 'schnell',
    prompt_strength: strength,
    num_inference_steps: steps,
    guidance_scale: g,
    seed,
  })
  const bytes = await fromRgb(inputs['image_u8']!.data as Uint8Array, size)
    .png()
    .toBuffer()
  const mask = inputs['mask_u8'] && (await greyPng(inputs['mask_u8'].data as Uint8Array, size))
  const settings = { noise: 'torch-cpu', goFastLoraMultiplier: 1.5, safetyChecker: false } as const
  const draft = draftPlan(input, [], settings)
  if (draft.kind === 'invalid') throw draft.error
  return finishPlan(draft, { image: { bytes, size }, mask, loras: [] })
}

const greyPng = (grey: Uint8Array, size: { width: number; height: number }) =>
  fromRgb(
    Uint8Array.from({ length: 3 * grey.length }, (_, i) => grey[Math.floor(i / 3)]!),
    size,
  )
    .png()
    .toBuffer()

test('the fixtures have cases of both kinds', () => {
  expect(cases.length).toBeGreaterThanOrEqual(6)
})

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  const golden = goldenCase(id)
  const got: Record<string, ArrayLike<number>> = {}
  let noise: Float32Array

  beforeAll(async () => {
    const { text, transformer: component, autoencoder, scheduler } = checkpoints[layout]()
    const clip = await loadClip(text, options)
    const t5 = await loadT5(text, golden.params['msl'], options)
    const transformer = await loadTransformer(component, options)
    const decoder = await loadDecoder(autoencoder, options)
    const imageEncoder = await loadEncoder(autoencoder, options)

    const plan = await planCase(golden)
    const { tokenRows, tokenCols } = tokenGrid(plan.size)
    const { predict, sigmas } = await prepare(
      plan,
      { transformer, scheduler },
      { pooled: await clip.encode(plan.prompt), hidden: await t5.encode(plan.prompt) },
    )
    const initLatents = await prepareInitLatents(plan.start, plan.size, async (image, size) => {
      const latents = await imageEncoder.encode(image, size)
      got['image_latents'] = latents
      return latents
    })
    noise = startNoise(plan.noise, plan.seed, plan.size)
    const start = initLatents(packLatents(noise, tokenRows, tokenCols), sigmas[0]!)
    const stepLatents: number[] = []
    const packed = await denoise(predict, start.latents, sigmas, {
      blend: start.blend,
      onStep: (_, latents) => stepLatents.push(...unpackLatents(latents, tokenRows, tokenCols)),
    })
    const latents = unpackLatents(packed, tokenRows, tokenCols)
    got['sigmas'] = sigmas
    got['steps_run'] = [stepsToRun(plan), plan.firstStep]
    got['step_latents'] = stepLatents
    got['final_latents'] = latents
    got['image_u8'] = await decoder.decode(latents, plan.size)
  })

  test('the noise is that of torch, and the levels begin at the strength', () => {
    expectClose(noise, golden.inputs['noise']!.data, noiseTolerance)
    expectClose(got['sigmas']!, golden.inputs['sigmas']!.data, 1e-6)
    expect(got['steps_run']).toEqual([golden.params['steps_run'], golden.params['t_start']])
  })

  test("the image's latents, every step, the final latents and the pixels are those of diffusers", () => {
    const { sigmas, steps_run, ...outputs } = got
    expectOutputs(golden, outputs)
  })
})
