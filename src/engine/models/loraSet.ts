/**
 * A set of LoRAs, ready to be merged into a variant's networks at any scales. Every merge starts at
 * the checkpoint's own tensors; values are summed in float32 and rounded once: to the dtype that
 * the checkpoint stores, or, where fp8 quantises, by the network itself.
 */

import { FluxdError } from '../../errors.js'
import type { LoraFile, Precision } from '../../plan/plan.js'
import type { TensorSlice } from '../../safetensors/read.js'
import { elementCount } from '../../safetensors/tensor.js'
import type { Checkpoint, Component } from '../checkpoint/checkpoint.js'
import type { ClipParams, FluxParams } from '../flux/params.js'
import { isBlockWeight } from '../flux/transformer.js'
import type { LoraAdapter } from '../lora/format/adapter.js'
import { openLora } from '../lora/format/read.js'
import { areLowRank, type Factors, openFactors } from '../lora/merge/lowRank.js'
import type { MergeTarget, Rounding } from '../lora/merge/mergeGraph.js'
import { createMerger, listTargets, type Merger } from '../lora/merge/merger.js'
import type { LowRankChanges } from '../runtime/backends/backend.js'
import {
  createFileStore,
  createMemoryStore,
  keptBytes,
  type TensorStore,
} from '../runtime/weights/mergedTensorStore.js'
import { type TensorSource, withMerged } from '../runtime/weights/weights.js'

export type AdaptedParts = Pick<Checkpoint, 'transformer'> & {
  readonly clip: Component<ClipParams>
}

/** A network's weights with LoRAs in them. */
export type MergedComponent<Params> = {
  readonly component: Component<Params>
  /** To be called when the network is loaded: gives the merged tensors' memory or disk back. */
  readonly release: () => void
}

/** What the weights become with one scale per LoRA. */
type Merge<Params> = (scales: readonly number[]) => Promise<MergedComponent<Params>>

/** What a set makes of the transformer. */
export type TransformerChange =
  | { readonly kind: 'none' }
  /** Of low rank, for weights that can be changed where they are. */
  | { readonly kind: 'inPlace'; readonly changes: Factors }
  | { readonly kind: 'merged'; readonly merge: Merge<FluxParams> }

export type LoraSet = {
  readonly transformer: TransformerChange
  /** Undefined where CLIP stays as it is. */
  readonly clip: Merge<ClipParams> | undefined
  /** What of the files has no place in the networks, a sentence for each. */
  readonly notes: readonly string[]
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

/** Reads the LoRAs' files; throws `lora_invalid` when one is none or is made for another model. */
export async function openLoraSet(
  { transformer, clip }: AdaptedParts,
  precision: Precision,
  files: readonly LoraFile[],
  settings: MergeSettings,
): Promise<LoraSet> {
  const { threads } = settings
  const model = { transformer: transformer.params, clip: clip.params }
  const adapters = await Promise.all(
    files.map(async (file) => {
      try {
        return { ...(await openLora(file.path, model, threads)), source: file.name }
      } catch (error) {
        throw withName(error, file)
      }
    }),
  )
  const rounding = roundingIn(precision)
  const open = ({ weights }: Component<FluxParams | ClipParams>) =>
    createMerger(weights.pristine, adapters, { rounding, threads })

  async function openTransformer(): Promise<Opened<TransformerChange>> {
    const targets = listTargets(transformer.weights.pristine, adapters, rounding)
    if (settings.changesInPlace && areLowRank(targets)) {
      const changes = rememberLast(await openFactors(targets, threads))
      return { value: { kind: 'inPlace', changes }, release: async () => {} }
    }
    const merger = await open(transformer)
    const merge = mergeOf(transformer, merger, settings)
    return { value: merge ? { kind: 'merged', merge } : { kind: 'none' }, release: merger.release }
  }

  const ofTransformer = await openTransformer()
  const ofClip = await open(clip).catch(async (error) => {
    await ofTransformer.release()
    throw error
  })
  return {
    transformer: ofTransformer.value,
    clip: mergeOf(clip, ofClip, settings),
    notes: adapters.flatMap(noteIgnored),
    async release() {
      await ofTransformer.release()
      await ofClip.release()
    },
  }
}

/** Clients are not told where files lie. */
function withName(error: unknown, { name, path }: LoraFile): unknown {
  if (!(error instanceof FluxdError)) return error
  return new FluxdError(error.code, error.message.replaceAll(path, name), { cause: error })
}

const noteIgnored = ({ source, ignored }: LoraAdapter): string[] =>
  ignored.length > 0
    ? [`${source}: ${ignored.length} of its tensors are not merged, the first is ${ignored[0]}`]
    : []

type Opened<T> = { readonly value: T; readonly release: () => Promise<void> }

/** Undefined where the LoRAs have nothing for this network. */
function mergeOf<Params>(
  component: Component<Params>,
  merger: Merger,
  settings: MergeSettings,
): Merge<Params> | undefined {
  if (merger.targets.length === 0) return undefined
  return async (scales) => {
    const store = openStore(merger.targets, settings)
    try {
      return {
        component: await mergeInto(component, merger, scales, store),
        release: store.release,
      }
    } catch (error) {
      store.release()
      throw error
    }
  }
}

/** The same map again for the same scales: devices know changes by their identity. */
function rememberLast(factors: Factors): Factors {
  let last: { readonly key: string; readonly changes: LowRankChanges } | undefined
  return (scales) => {
    const key = scales.join()
    if (last?.key !== key) last = { key, changes: factors(scales) }
    return last.changes
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
  return { ...component, weights: withMerged(component.weights, merged) }
}
