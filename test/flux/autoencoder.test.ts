import { describe, test } from 'vitest'
import { openAutoencoder, openLdmAutoencoder } from '../../src/checkpoint/checkpoint.js'
import { buildAutoencoderGraphs } from '../../src/pipeline/decoder.js'
import { createSession } from '../../src/runtime/session.js'
import { floatTensor } from '../../src/runtime/tensor.js'
import { expectOutputs, fixturePath, type GoldenCase, goldenCase } from '../goldens.js'

const options = { threads: 1, widenWeights: 'load' } as const
const layouts = {
  'tiny-dev': { model: 'tiny-dev', open: () => openAutoencoder(fixturePath('tiny-dev/vae')) },
  'tiny-schnell': {
    model: 'tiny-schnell',
    open: () => openAutoencoder(fixturePath('tiny-schnell/vae')),
  },
  // The group count is not in the file (fixtures/README.md).
  'tiny-dev-bfl': {
    model: 'tiny-dev',
    open: () => openLdmAutoencoder(fixturePath('tiny-dev-bfl/ae.safetensors'), 4),
  },
}

const input = ({ inputs }: GoldenCase, name: string) =>
  floatTensor(inputs[name]!.data as Float32Array, inputs[name]!.shape)

describe.each(Object.entries(layouts))('the autoencoder of %s', (_, { model, open }) => {
  test('decodes latents as diffusers does', async () => {
    const { decoder } = buildAutoencoderGraphs(open())
    const session = await createSession(decoder.encode(['image']), options)
    const golden = goldenCase(`vae_decode_${model}`)
    const result = await session.run({ latents: input(golden, 'latents') })
    expectOutputs(golden, { image: result['image']!.data })
  })

  test('encodes an image as diffusers does', async () => {
    const { encoder } = buildAutoencoderGraphs(open())
    const session = await createSession(encoder.encode(['mean', 'logvar']), options)
    const golden = goldenCase(`vae_encode_${model}`)
    const { mean, logvar, latents } = await session.run({ image: input(golden, 'image') })
    expectOutputs(golden, { mean: mean!.data, logvar: logvar!.data, latents: latents!.data })
  })
})
