/**
 * A set of LoRAs, ready to be merged into a variant's networks at any scales. Every merge starts at
 * the checkpoint's own tensors; values are summed in float32 and rounded once: to the dtype that
 * the checkpoint stores, or, where fp8 quantises, by the network itself.
 */
import type { Checkpoint, Component } from '../checkpoint/checkpoint.js'
import type { ClipParams, FluxParams } from '../flux/params.js'
import { isBlockWeight } from '../flux/transformer.js'
import { areLowRank, openFactors } from '../lora/factors.js'
import { openLora } from '../lora/lora.js'
import { createMerger, listTargets, type Merger } from '../lora/merge.js'
import type { MergeTarget, Rounding } from '../lora/mergeGraph.js'
import type { LoraSource, Precision } from '../plan/plan.js'
import { type LowRankChanges, unchanged } from '../runtime/backend.js'
import type { TensorSlice } from '../runtime/safetensors.js'
import { elementCount } from '../runtime/tensor.js'
import {
  createFileStore,
  createMemoryStore,
  keptBytes,
  type TensorStore,
} from '../runtime/tensorStore.js'
import { type TensorSource, withMerged } from '../runtime/weights.js'

export type AdaptedParts = Pick<Checkpoint, 'transformer'> & {
  readonly clip: Component<ClipParams>
}

export type MergedParts = AdaptedParts & {
  /** What is to be changed in the transformer itself, where it is not another one. */
  readonly changes: LowRankChanges
  /** To be called when the networks are loaded: gives the merged tensors' memory or disk back. */
  readonly release: () => void
}

export type LoraSet = {
  /** What each network becomes with one scale per LoRA; the same component where nothing changes. */
  readonly merge: (scales: readonly number[]) => Promise<MergedParts>
  readonly release: () => Promise<void>
}

export type MergeSettings = {
  readonly threads: number
  /** The folder for merged tensors that are larger together than `maxBytesInMemory`. */
  readonly scratch: string
  readonly maxBytesInMemory: number
  /** Whether the transformer can be changed in place: then it is, by every set of low rank. */
  readonly changesInPlace?: boolean
}

/** What a set makes of the transformer. */
type TransformerMerger = Pick<Merger, 'targets' | 'release'> & {
  readonly merge: (
    scales: readonly number[],
    store: TensorStore,
  ) => Promise<Pick<MergedParts, 'transformer' | 'changes'>>
}

/** Reads the LoRAs' files; throws `lora_invalid` when one is none or is made for another model. */
export async function openLoraSet(
  { transformer, clip }: AdaptedParts,
  precision: Precision,
  files: readonly LoraSource[],
  settings: MergeSettings,
): Promise<LoraSet> {
  const { threads } = settings
  const model = { transformer: transformer.params, clip: clip.params }
  const adapters = await Promise.all(files.map(({ path }) => openLora(path, model, threads)))
  const rounding = roundingIn(precision)
  const open = ({ weights }: Component<FluxParams | ClipParams>) =>
    createMerger(weights.pristine, adapters, { rounding, threads })

  async function openInPlace(targets: readonly MergeTarget[]): Promise<TransformerMerger> {
    const factors = await openFactors(targets, threads)
    return {
      // Nothing of them goes through a store.
      targets: [],
      merge: async (scales) => ({ transformer, changes: factors(scales) }),
      release: async () => {},
    }
  }

  async function openTransformer(): Promise<TransformerMerger> {
    const targets = listTargets(transformer.weights.pristine, adapters, rounding)
    if (settings.changesInPlace && areLowRank(targets)) return openInPlace(targets)
    const merger = await open(transformer)
    return {
      ...merger,
      merge: async (scales, store) => ({
        transformer: await mergeInto(transformer, merger, scales, store),
        changes: unchanged,
      }),
    }
  }

  const ofTransformer = await openTransformer()
  const ofClip = await open(clip).catch(async (error) => {
    await ofTransformer.release()
    throw error
  })
  return {
    async merge(scales) {
      const store = openStore([...ofTransformer.targets, ...ofClip.targets], settings)
      try {
        return {
          ...(await ofTransformer.merge(scales, store)),
          clip: await mergeInto(clip, ofClip, scales, store),
          release: store.release,
        }
      } catch (error) {
        store.release()
        throw error
      }
    },
    async release() {
      await ofTransformer.release()
      await ofClip.release()
    },
  }
}

const roundingIn =
  (precision: Precision) =>
  (name: string, { dtype }: TensorSlice): Rounding => {
    if (precision === 'fp8' && isBlockWeight(name)) return 'float32'
    if (dtype === 'F32') return 'float32'
    return dtype === 'F16' ? 'f16' : 'bf16'
  }

const storedAs = (rounding: Rounding) => (rounding === 'bf16' ? 'BF16' : 'F32')

function openStore(
  targets: readonly MergeTarget[],
  { scratch, maxBytesInMemory }: MergeSettings,
): TensorStore {
  const bytes = targets.reduce(
    (sum, { base, rounding }) => sum + keptBytes(elementCount(base.shape), storedAs(rounding)),
    0,
  )
  return bytes > maxBytesInMemory ? createFileStore(scratch, bytes) : createMemoryStore()
}

async function mergeInto<Params>(
  component: Component<Params>,
  merger: Merger,
  scales: readonly number[],
  store: TensorStore,
): Promise<Component<Params>> {
  const merged = new Map<string, TensorSource>()
  for await (const { name, tensor, rounding } of merger.mergeEach(scales))
    merged.set(name, store.keep(name, tensor, storedAs(rounding)))
  if (merged.size === 0) return component
  return { ...component, weights: withMerged(component.weights, merged) }
}
