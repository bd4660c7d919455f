import { describe, test } from 'vitest'
import { openBflTransformer, openTransformer } from '../../src/checkpoint/checkpoint.js'
import { ropeTables } from '../../src/pipeline/latents.js'
import {
  guidanceArgument,
  timestepArgument,
  timestepEmbedding,
} from '../../src/pipeline/schedule.js'
import { buildTransformerGraphs } from '../../src/pipeline/transformer.js'
import { createSession } from '../../src/runtime/session.js'
import { floatTensor } from '../../src/runtime/tensor.js'
import {
  expectOutputs,
  fixturePath,
  type GoldenCase,
  goldenCase,
  readManifest,
} from '../goldens.js'

const checkpoints = {
  'tiny-dev': () => openTransformer(fixturePath('tiny-dev/transformer')),
  'tiny-schnell': () => openTransformer(fixturePath('tiny-schnell/transformer')),
  'tiny-dev-bfl': () =>
    openBflTransformer(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'), { axes: [4, 6, 6] }),
}
const cases = readManifest()
  .cases.filter(({ kind }) => kind === 'transformer')
  .flatMap(({ id, model, also_valid_for = [] }) =>
    [model, ...also_valid_for].map((layout) => ({
      id,
      layout: layout as keyof typeof checkpoints,
    })),
  )

/** The input without its batch axis. */
function input({ inputs }: GoldenCase, name: string, { batch = false } = {}) {
  const { data, shape } = inputs[name]!
  return floatTensor(data as Float32Array, batch ? shape : shape.slice(1))
}

/** Both graphs, with every intermediate value that the case knows. */
async function run(golden: GoldenCase, layout: keyof typeof checkpoints, widen: 'load' | 'run') {
  const component = checkpoints[layout]()
  const { guidance, axes, headDim } = component.params
  const { sigma, grid_rows, grid_cols, timestep_rounding, ...params } = golden.params
  const options = { threads: 1, widenWeights: widen }
  const graphs = buildTransformerGraphs(component)
  const inner = Object.keys(golden.outputs).filter((name) => name !== 'out')
  const outer = ['vec', 'txt_in']

  const conditioning = await createSession(graphs.conditioning.encode(['vec']), options)
  const hidden = input(golden, 'encoder_hidden_states')
  const embed = (u: number) => floatTensor(timestepEmbedding(u), [1, 256])
  const { vec, txt, modulation } = await conditioning.run({
    hidden,
    pooled: input(golden, 'pooled', { batch: true }),
    timesteps: embed(timestepArgument(sigma, timestep_rounding)),
    ...(guidance && { guidance: embed(guidanceArgument(params['guidance'], timestep_rounding)) }),
  })

  const taps = inner.filter((name) => !outer.includes(name))
  const step = await createSession(graphs.step.encode(taps), options)
  const tables = ropeTables(hidden.dims[0]!, grid_rows, grid_cols, axes)
  const dims = [hidden.dims[0]! + grid_rows * grid_cols, headDim / 2]
  const { velocity, ...tapped } = await step.run({
    img: input(golden, 'hidden_states'),
    txt: txt!,
    modulation: { ...modulation!, dims: [modulation!.data.length] },
    cos: floatTensor(tables.cos, dims),
    sin: floatTensor(tables.sin, dims),
  })
  const results = { ...tapped, vec: vec!, txt_in: txt!, out: velocity! }
  return Object.fromEntries(
    Object.entries(results)
      .filter(([name]) => name in golden.outputs)
      .map(([name, { data }]) => [name, data as Float32Array]),
  )
}

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  test('agrees with diffusers, block by block', async () => {
    const golden = goldenCase(id)
    expectOutputs(golden, await run(golden, layout, 'load'))
  })
})

test('weights widened at run time give the same velocity', async () => {
  const golden = goldenCase('transformer_tiny-dev')
  expectOutputs(golden, await run(golden, 'tiny-dev', 'run'))
})
