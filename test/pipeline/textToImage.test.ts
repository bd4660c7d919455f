/** Whole pictures: prompt, seed and steps in, diffusers' FluxPipeline (float32, CPU) as the truth. */
import { beforeAll, describe, test } from 'vitest'
import { loadDecoder } from '../../src/pipeline/decoder.js'
import { denoise, type Predict } from '../../src/pipeline/denoise.js'
import { prepare } from '../../src/pipeline/generate.js'
import { packLatents, tokenGrid, unpackLatents } from '../../src/pipeline/latents.js'
import { startNoise } from '../../src/pipeline/noise.js'
import { loadPromptEncoder } from '../../src/pipeline/prompt.js'
import { loadTransformer } from '../../src/pipeline/transformer.js'
import { expectClose, expectOutputs, goldenCase } from '../goldens.js'
import { checkpoints, listCases, noiseTolerance } from './layouts.js'

const options = { threads: 1, widenWeights: 'load' } as const

const cases = listCases('text_to_image')

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  const golden = goldenCase(id)
  const { prompt, prompt_2, negative, true_cfg, msl, width, height, steps, g, seed } = golden.params
  const size = { width, height }
  const { tokenRows, tokenCols } = tokenGrid(size)
  const got: Record<string, ArrayLike<number>> = {}
  let noise: Float32Array

  beforeAll(async () => {
    const { text, transformer: component, autoencoder, scheduler } = checkpoints[layout]()
    const encoder = await loadPromptEncoder(text, msl, options)
    const transformer = await loadTransformer(component, options)
    const decoder = await loadDecoder(autoencoder, options)
    const predictorOf = async (words: string, t5Words?: string) =>
      prepare(
        { size, steps, firstStep: 0, guidance: g },
        { transformer, scheduler },
        await encoder.encode(words, t5Words),
      )
    const { predict, sigmas } = await predictorOf(prompt, prompt_2)
    const guided = negative
      ? trueGuidance((await predictorOf(negative)).predict, predict, true_cfg)
      : predict

    noise = startNoise('torch-cpu', seed, size)
    const stepLatents: number[] = []
    const packed = await denoise(guided, packLatents(noise, tokenRows, tokenCols), sigmas, {
      onStep: (_, latents) => stepLatents.push(...unpackLatents(latents, tokenRows, tokenCols)),
    })
    const latents = unpackLatents(packed, tokenRows, tokenCols)
    got['sigmas'] = sigmas
    got['step_latents'] = stepLatents
    got['final_latents'] = latents
    got['image_u8'] = await decoder.decode(latents, size)
  })

  test('the noise is that of torch', () => {
    expectClose(noise, golden.inputs['noise']!.data, noiseTolerance)
  })

  test('every step, the final latents and the pixels are those of diffusers', () => {
    const { sigmas, ...outputs } = got
    expectClose(sigmas!, golden.inputs['sigmas']!.data, 1e-6)
    expectOutputs(golden, outputs)
  })
})

/** v = v_neg + scale·(v_pos − v_neg): two evaluations a step. */
function trueGuidance(negative: Predict, positive: Predict, scale: number): Predict {
  return async (latents, step) => {
    const [neg, pos] = [await negative(latents, step), await positive(latents, step)]
    return neg.map((value, i) => value + scale * (pos[i]! - value))
  }
}
