/** The autoencoder of the golden cases in a dialect and a dtype of one's choice. */
import { openAutoencoder, openLdmAutoencoder } from '../../../src/engine/checkpoint/checkpoint.js'
import { buildAutoencoderGraphs } from '../../../src/engine/models/vae.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import type { ImageDType } from '../../../src/engine/runtime/ops/vae.js'
import { floatTensor } from '../../../src/safetensors/tensor.js'
import { fixturePath, type GoldenCase, goldenCase } from '../../goldens.js'

const options = { threads: 1, widenWeights: 'load' } as const

/** Each layout of a checkpoint: the model whose golden values it must give, and how it is opened. */
export const layouts = {
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

const debugOutputs = { decoder: ['image'], encoder: ['mean', 'logvar'] } as const
const cases = { decoder: 'decode', encoder: 'encode' } as const
const inputs = { decoder: 'latents', encoder: 'image' } as const

const inputOf = ({ inputs }: GoldenCase, name: string) =>
  floatTensor(inputs[name]!.data as Float32Array, inputs[name]!.shape)

/** A golden case, and what a backend makes of it. */
export async function runAutoencoder(
  layout: keyof typeof layouts,
  direction: keyof typeof cases,
  backend: Backend,
  dtype: ImageDType = 'F32',
) {
  const { model, open } = layouts[layout]
  const graph = buildAutoencoderGraphs(open(), backend, dtype)[direction]
  const models = { session: { graph, debugOutputs: debugOutputs[direction] } }
  const { session } = await backend.createSessions(models, options)
  const golden = goldenCase(`vae_${cases[direction]}_${model}`)
  const input = inputs[direction]
  const results = await session.run({ [input]: inputOf(golden, input) })
  await session.release()
  const outputs = Object.keys(golden.outputs).map((name) => [name, results[name]!.data])
  return { golden, outputs: Object.fromEntries(outputs) }
}
