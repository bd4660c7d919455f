/** The tiny-dev transformer and its adapters, as the LoRA tests use them. */
import { openBflTransformer, openTransformer } from '../../../src/engine/checkpoint/checkpoint.js'
import type { LoraAdapter } from '../../../src/engine/lora/format/adapter.js'
import { readLora } from '../../../src/engine/lora/format/read.js'
import { loadTransformer, type Transformer } from '../../../src/engine/models/transformer.js'
import { ropeTables } from '../../../src/engine/pipeline/latents.js'
import { timestepEmbedding } from '../../../src/engine/pipeline/schedule.js'
import { type Backend, portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import type { Precision } from '../../../src/engine/runtime/ops/ops.js'
import { inMemory } from '../../../src/engine/runtime/weights/mergedTensorStore.js'
import { withMerged } from '../../../src/engine/runtime/weights/weights.js'
import { openSafetensors } from '../../../src/safetensors/read.js'
import { floatTensor } from '../../../src/safetensors/tensor.js'
import { fixturePath, type GoldenCase } from '../../goldens.js'
import { roundedGuidance, roundedTimestep } from '../pipeline/timestepRounding.js'
import type { MergedTensors } from './merging.js'

export const options = { threads: 1, widenWeights: 'load' } as const

export const tinyDev = openTransformer(fixturePath('tiny-dev/transformer'))
export const tinyDevBfl = openBflTransformer(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'), {
  axes: [4, 6, 6],
})
export const pristine = tinyDev.weights.pristine

/** An adapter of test/fixtures, such as `lora/lora_peft.safetensors`. */
export const fixtureLora = (path: string): LoraAdapter =>
  readLora(openSafetensors(fixturePath(path)), { transformer: tinyDev.params })

/** Merged tensors as a graph's weights. */
export const sourcesOf = (merged: MergedTensors) =>
  new Map([...merged].map(([name, tensor]) => [name, inMemory(name, tensor)]))

/** Sessions over the checkpoint with these tensors replaced. */
export const loadMerged = (
  merged: MergedTensors,
  component = tinyDev,
  precision: Precision = 'bf16',
  backend: Backend = portableBackend,
): Promise<Transformer> =>
  loadTransformer(
    { ...component, weights: withMerged(component.weights, sourcesOf(merged)) },
    options,
    precision,
    backend,
  )

/** The velocity for a golden case's inputs. */
export async function velocity(transformer: Transformer, golden: GoldenCase) {
  const { sigma, guidance, grid_rows, grid_cols, timestep_rounding } = golden.params
  const { axes, headDim } = transformer.params
  const data = (name: string) => golden.inputs[name]!.data as Float32Array
  const shape = (name: string) => golden.inputs[name]!.shape
  const hidden = floatTensor(data('encoder_hidden_states'), shape('encoder_hidden_states').slice(1))
  const conditioning = await transformer.condition({
    prompt: { hidden, pooled: floatTensor(data('pooled'), shape('pooled')) },
    timesteps: [timestepEmbedding(roundedTimestep(sigma, timestep_rounding))],
    guidance: timestepEmbedding(roundedGuidance(guidance, timestep_rounding)),
  })
  const tables = ropeTables(hidden.dims[0]!, grid_rows, grid_cols, axes)
  const dims = [hidden.dims[0]! + grid_rows * grid_cols, headDim / 2]
  const rope = { cos: floatTensor(tables.cos, dims), sin: floatTensor(tables.sin, dims) }
  const { predict, release } = await transformer.bindSteps(conditioning, rope)
  return predict(data('hidden_states'), 0).finally(release)
}
