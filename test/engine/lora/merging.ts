/** Whole merges, for tests that compare every tensor. */
import type { LoraAdapter } from '../../../src/engine/lora/format/adapter.js'
import {
  createMerger,
  type MergeOptions,
  type Merger,
} from '../../../src/engine/lora/merge/merger.js'
import type { TensorSlice } from '../../../src/safetensors/read.js'
import type { FloatTensor } from '../../../src/safetensors/tensor.js'

export type LoraUse = { readonly adapter: LoraAdapter; readonly scale: number }

/** The tensors that differ from the base model's, by name. */
export type MergedTensors = ReadonlyMap<string, FloatTensor>

/** All tensors that a merger yields. */
export async function mergeAll(merger: Merger, scales: readonly number[]): Promise<MergedTensors> {
  const merged = new Map<string, FloatTensor>()
  for await (const { name, tensor } of merger.mergeEach(scales)) merged.set(name, tensor)
  return merged
}

/** The merged tensors of `base` with each LoRA at its scale. */
export async function mergeLoras(
  base: ReadonlyMap<string, TensorSlice>,
  loras: readonly LoraUse[],
  options: MergeOptions,
): Promise<MergedTensors> {
  const active = loras.filter(({ scale }) => scale !== 0)
  const merger = await createMerger(
    base,
    active.map(({ adapter }) => adapter),
    options,
  )
  const scales = active.map(({ scale }) => scale)
  return mergeAll(merger, scales).finally(merger.release)
}
