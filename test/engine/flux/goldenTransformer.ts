/** The golden cases of the transformer, through any backend. */
import { openBflTransformer, openTransformer } from '../../../src/engine/checkpoint/checkpoint.js'
import { buildTransformerGraphs } from '../../../src/engine/models/transformer.js'
import { ropeTables } from '../../../src/engine/pipeline/latents.js'
import { timestepEmbedding } from '../../../src/engine/pipeline/schedule.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import type { SessionOptions } from '../../../src/engine/runtime/backends/ort/session.js'
import type { Precision } from '../../../src/engine/runtime/ops/ops.js'
import { floatTensor } from '../../../src/safetensors/tensor.js'
import { fixturePath, type GoldenCase, readManifest } from '../../goldens.js'
import { roundedGuidance, roundedTimestep } from '../pipeline/timestepRounding.js'

export const checkpoints = {
  'tiny-dev': () => openTransformer(fixturePath('tiny-dev/transformer')),
  'tiny-schnell': () => openTransformer(fixturePath('tiny-schnell/transformer')),
  'tiny-dev-bfl': () =>
    openBflTransformer(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'), { axes: [4, 6, 6] }),
}
export const cases = readManifest()
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

export type RunOptions = {
  readonly backend: Backend
  readonly layout: keyof typeof checkpoints
  readonly widen?: SessionOptions['widenWeights']
  readonly precision?: Precision
}

/** Both graphs, with every intermediate value that the case knows. */
export async function runTransformer(
  golden: GoldenCase,
  { backend, layout, widen = 'load', precision = 'bf16' }: RunOptions,
) {
  const component = checkpoints[layout]()
  const { guidance, axes, headDim } = component.params
  const { sigma, grid_rows, grid_cols, timestep_rounding, ...params } = golden.params
  const options = { threads: 1, widenWeights: widen }
  const graphs = buildTransformerGraphs(component, precision, backend)
  const inner = Object.keys(golden.outputs).filter((name) => name !== 'out')
  const outer = ['vec', 'txt_in']

  const debugOutputs = inner.filter((name) => !outer.includes(name))
  const models = {
    conditioning: { graph: graphs.conditioning, debugOutputs: ['vec'] },
    step: { graph: graphs.step, debugOutputs },
  }
  const { conditioning, step } = await backend.createSessions(models, options)
  const hidden = input(golden, 'encoder_hidden_states')
  const embed = (u: number) => floatTensor(timestepEmbedding(u), [1, 256])
  const { vec, txt, modulation } = await conditioning.run({
    hidden,
    pooled: input(golden, 'pooled', { batch: true }),
    timesteps: embed(roundedTimestep(sigma, timestep_rounding)),
    ...(guidance && { guidance: embed(roundedGuidance(params['guidance'], timestep_rounding)) }),
  })

  const tables = ropeTables(hidden.dims[0]!, grid_rows, grid_cols, axes)
  const dims = [hidden.dims[0]! + grid_rows * grid_cols, headDim / 2]
  const { velocity, ...tapped } = await step.run({
    img: input(golden, 'hidden_states'),
    txt: txt!,
    modulation: { ...modulation!, dims: [modulation!.data.length] },
    cos: floatTensor(tables.cos, dims),
    sin: floatTensor(tables.sin, dims),
  })
  await conditioning.release()
  await step.release()
  const results = { ...tapped, vec: vec!, txt_in: txt!, out: velocity! }
  return Object.fromEntries(
    Object.entries(results)
      .filter(([name]) => name in golden.outputs)
      .map(([name, { data }]) => [name, data as Float32Array]),
  )
}
