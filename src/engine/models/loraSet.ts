/**
 * A set of LoRAs: files that were read and checked, and their scales. Every merge starts from the
 * checkpoint's own tensors; values are summed in float32 and rounded once: to the dtype that the
 * checkpoint stores, or, where fp8 quantises, by the network itself.
 */

import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { FluxdError } from '../../errors.js'
import type { LoraFile, Precision } from '../../plan/plan.js'
import type { TensorSlice } from '../../safetensors/read.js'
import { elementCount } from '../../safetensors/tensor.js'
import type { Checkpoint, Component } from '../checkpoint/checkpoint.js'
import type { ClipParams, FluxParams } from '../flux/params.js'
import { isBlockWeight } from '../flux/transformer.js'
import type { LoraAdapter } from '../lora/format/adapter.js'
import { openLora } from '../lora/format/read.js'
import {
  areLowRank,
  type LoraFactors,
  readLoraFactors,
  scaleFactors,
} from '../lora/merge/lowRank.js'
import type { MergeTarget, Rounding } from '../lora/merge/mergeGraph.js'
import { createMerger, listTargets, type Merger } from '../lora/merge/merger.js'
import { type LoraSetKey, type LowRankChanges, unchanged } from '../runtime/backends/backend.js'
import {
  createFileStore,
  createMemoryStore,
  keptBytes,
  type TensorStore,
} from '../runtime/weights/mergedTensorStore.js'
import { type TensorSource, withMerged } from '../runtime/weights/weights.js'

/** The networks that a LoRA may change. */
export type LoraTargets = Pick<Checkpoint, 'transformer'> & {
  readonly clip: Component<ClipParams>
}

/** What LoRAs change of the transformer, at any scales. */
export type TransformerDeltas =
  | { readonly kind: 'none' }
  /** For weights that LoRAs can be merged into in place. */
  | { readonly kind: 'lowRank'; readonly factors: LoraFactors }
  /** For sessions over merged weights. */
  | { readonly kind: 'merged'; readonly merger: Merger }

/** LoRA files, read for the networks of a variant at a precision. */
export type ParsedLoras = {
  readonly transformer: TransformerDeltas
  /** Undefined where CLIP stays unchanged. */
  readonly clip: Merger | undefined
  /** One sentence for each file that has tensors without a place in the networks. */
  readonly notes: readonly string[]
  readonly release: () => Promise<void>
}

export type LoraSet = {
  /** Equal keys mean equal weights. */
  readonly key: LoraSetKey
  /** The key of the files alone. */
  readonly files: string
  /** One per file. */
  readonly scales: readonly number[]
  readonly parsed: ParsedLoras
}

/** The set without LoRAs. */
export const emptyLoraSet: LoraSet = {
  key: unchanged.key,
  files: unchanged.files,
  scales: [],
  parsed: { transformer: { kind: 'none' }, clip: undefined, notes: [], release: async () => {} },
}

export type MergeSettings = {
  readonly threads: number
  /** The folder for merged tensors that are larger together than `maxBytesInMemory`. */
  readonly scratch: string
  readonly maxBytesInMemory: number
  /** Whether LoRAs of low rank are merged into the transformer's weights in place. */
  readonly changesInPlace: boolean
}

/** The key of these files, read without opening them: a file that changed is another file. */
export const filesKey = (files: readonly LoraFile[]) => files.map(identify).join('\n')

/** The key of files with the key `files` at these scales: a digest, as it is part of names. */
export function loraSetKey(files: string, scales: readonly number[]): LoraSetKey {
  const text = `${files}\n${scales.join(' ')}`
  return createHash('sha256').update(text).digest('hex').slice(0, 16) as LoraSetKey
}

function identify({ name, path, digest }: LoraFile): string {
  if (digest !== undefined) return digest
  const stats = statSync(path, { throwIfNoEntry: false })
  if (!stats)
    throw new FluxdError('lora_invalid', `${name}: expected a LoRA file but nothing is there`)
  return `${path} ${stats.ino} ${stats.size} ${stats.mtimeMs}`
}

/**
 * Reads LoRA files for these networks. Throws `lora_invalid`, which calls a file by its `name`,
 * when one is no LoRA or is made for another model.
 */
export async function parseLoras(
  { transformer, clip }: LoraTargets,
  precision: Precision,
  files: readonly LoraFile[],
  { threads, changesInPlace }: MergeSettings,
): Promise<ParsedLoras> {
  const params = { transformer: transformer.params, clip: clip.params }
  const adapters = await Promise.all(files.map((file) => openLora(file, params, threads)))
  const rounding = roundingIn(precision)
  const createMergerOf = ({ weights }: Component<FluxParams | ClipParams>) =>
    createMerger(weights.pristine, adapters, { rounding, threads })

  async function openTransformer(): Promise<TransformerDeltas> {
    const targets = listTargets(transformer.weights.pristine, adapters, rounding)
    if (targets.length === 0) return { kind: 'none' }
    if (changesInPlace && areLowRank(targets))
      return { kind: 'lowRank', factors: await readLoraFactors(targets, threads) }
    return { kind: 'merged', merger: await createMergerOf(transformer) }
  }

  const deltas = await openTransformer()
  const releaseTransformer = async () => {
    if (deltas.kind === 'merged') await deltas.merger.release()
  }
  try {
    const merger = await createMergerOf(clip)
    return {
      transformer: deltas,
      clip: merger.targets.length > 0 ? merger : undefined,
      notes: adapters.flatMap(noteIgnored),
      async release() {
        await releaseTransformer()
        await merger.release()
      },
    }
  } catch (error) {
    await releaseTransformer()
    throw error
  }
}

const noteIgnored = ({ source, ignored }: LoraAdapter): string[] =>
  ignored.length > 0
    ? [`${source}: ${ignored.length} of its tensors are not merged, the first is ${ignored[0]}`]
    : []

/** The changes in place that make the base transformer one with this set. */
export function lowRankChanges({ key, files, scales, parsed }: LoraSet): LowRankChanges {
  if (parsed.transformer.kind !== 'lowRank') return unchanged
  return { key, files, matrices: scaleFactors(parsed.transformer.factors, scales) }
}

/** A network's weights with LoRAs in them. */
export type MergedComponent<Params> = {
  readonly component: Component<Params>
  /** Frees the merged tensors' memory or disk; for when the network is loaded. */
  readonly release: () => void
}

/** The network with the LoRAs of `merger` merged in, at one scale each. */
export async function mergeComponent<Params>(
  component: Component<Params>,
  merger: Merger,
  scales: readonly number[],
  settings: MergeSettings,
): Promise<MergedComponent<Params>> {
  const store = openStore(merger.targets, settings)
  try {
    const merged = new Map<string, TensorSource>()
    for await (const { name, tensor, rounding } of merger.mergeEach(scales))
      merged.set(name, store.keep(name, tensor, storedAs(rounding)))
    const weights = withMerged(component.weights, merged)
    return { component: { ...component, weights }, release: store.release }
  } catch (error) {
    store.release()
    throw error
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
