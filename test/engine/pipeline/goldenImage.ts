/** The golden cases of whole images, through any backend. */

import { loadClip, loadT5 } from '../../../src/engine/models/textEncoders.js'
import { loadTransformer, type Predict } from '../../../src/engine/models/transformer.js'
import { loadDecoder } from '../../../src/engine/models/vae.js'
import { denoise } from '../../../src/engine/pipeline/denoise.js'
import { prepare } from '../../../src/engine/pipeline/generate.js'
import { packLatents, tokenGrid, unpackLatents } from '../../../src/engine/pipeline/latents.js'
import { startNoise } from '../../../src/engine/pipeline/rng/randn.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import type { GoldenCase } from '../../goldens.js'
import { checkpoints } from './layouts.js'

const options = { threads: 1, widenWeights: 'load' } as const

/** All that the case has values of, from the prompt to the pixels. */
export async function generateGolden(
  { params }: GoldenCase,
  layout: keyof typeof checkpoints,
  backend: Backend,
) {
  const { prompt, prompt_2, negative, true_cfg, msl, width, height, steps, g, seed } = params
  const size = { width, height }
  const { tokenRows, tokenCols } = tokenGrid(size)
  const { text, transformer: component, autoencoder, scheduler } = checkpoints[layout]()
  const clip = await loadClip(text, options, backend)
  const t5 = await loadT5(text, msl, options, backend)
  const transformer = await loadTransformer(component, options, 'bf16', backend)
  const decoder = await loadDecoder(autoencoder, options, backend)
  const predictorOf = async (words: string, t5Words = words) =>
    prepare(
      { size, steps, firstStep: 0, guidance: g },
      { transformer, scheduler },
      { pooled: await clip.encode(words), hidden: await t5.encode(t5Words) },
    )
  const { predict, sigmas } = await predictorOf(prompt, prompt_2)
  const guided = negative
    ? trueGuidance((await predictorOf(negative)).predict, predict, true_cfg)
    : predict

  const noise = startNoise('torch-cpu', seed, size)
  const stepLatents: number[] = []
  const packed = await denoise(guided, packLatents(noise, tokenRows, tokenCols), sigmas, {
    onStep: (_, latents) => stepLatents.push(...unpackLatents(latents, tokenRows, tokenCols)),
  })
  const latents = unpackLatents(packed, tokenRows, tokenCols)
  return {
    noise,
    sigmas,
    outputs: {
      step_latents: stepLatents,
      final_latents: latents,
      image_u8: await decoder.decode(latents, size),
    },
  }
}

/** v = v_neg + scale·(v_pos − v_neg): two evaluations a step. */
function trueGuidance(negative: Predict, positive: Predict, scale: number): Predict {
  return async (latents, step) => {
    const [neg, pos] = [await negative(latents, step), await positive(latents, step)]
    return neg.map((value, i) => value + scale * (pos[i]! - value))
  }
}
