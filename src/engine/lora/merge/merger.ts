/**
 * Merges LoRAs into a model's weights:
 *
 *     W' = W + Σ scale·Δ    from the checkpoint's own W, in float32, rounded once at the end
 *
 * Small ONNX graphs compute it, whose initializers point into the checkpoint and the LoRA files and
 * whose only input is the scales: another scale is another run of the same session.
 * No merge is ever subtracted, so a result does not depend on the merges before it.
 */
import type { TensorSlice } from '../../../safetensors/read.js'
import { elementCount, type FloatTensor, floatTensor } from '../../../safetensors/tensor.js'
import { createSession, type Session } from '../../runtime/backends/ort/session.js'
import type { Delta, LoraAdapter } from '../format/adapter.js'
import { groupBySize } from './chunks.js'
import { type MergeTarget, mergeGraph, type Rounding } from './mergeGraph.js'

/** A tensor that differs from the base model's, with the rounding that was applied to it. */
export type MergedTensor = {
  readonly name: string
  readonly tensor: FloatTensor
  readonly rounding: Rounding
}

/** A set of LoRAs over a base model, ready for any scales. */
export type Merger = {
  /**
   * The merged tensors for one scale per LoRA, of which no more than a few are in memory at a time.
   * A tensor that only LoRAs of scale 0 change is left out: it is the base model's.
   */
  readonly mergeEach: (scales: readonly number[]) => AsyncIterable<MergedTensor>
  /** The tensors that the LoRAs can change. */
  readonly targets: readonly MergeTarget[]
  readonly release: () => Promise<void>
}

export type MergeOptions = {
  /** For all tensors, or for each by its name and as the checkpoint stores it. */
  readonly rounding: Rounding | ((name: string, base: TensorSlice) => Rounding)
  readonly threads: number
}

// The most bytes of one graph's float32 results, which are all in memory at once.
const maxGroupBytes = 256 * 2 ** 20

/**
 * A merger of `adapters` into `base`, the pristine tensors of one network by name. Deltas of
 * another network's tensors are ignored.
 */
export async function createMerger(
  base: ReadonlyMap<string, TensorSlice>,
  adapters: readonly LoraAdapter[],
  { rounding, threads }: MergeOptions,
): Promise<Merger> {
  const targets = listTargets(base, adapters, rounding)
  const groups: { targets: readonly MergeTarget[]; session: Session }[] = []
  const release = async () => {
    for (const { session } of groups) await session.release()
  }
  try {
    for (const group of groupBySize(targets, float32Bytes, maxGroupBytes)) {
      const model = mergeGraph(group, adapters.length)
      // Weights stay mapped: a widened copy of each would outlive the merge, as would an arena.
      const session = await createSession(model, { threads, widenWeights: 'run', arena: false })
      groups.push({ targets: group, session })
    }
  } catch (error) {
    await release()
    throw error
  }

  async function* mergeEach(scales: readonly number[]): AsyncGenerator<MergedTensor> {
    checkScales(scales, adapters.length)
    for (const { targets, session } of groups) {
      const touched = targets.filter(({ deltas }) => deltas.some((_, i) => scales[i] !== 0))
      if (touched.length === 0) continue
      const results = await session.run({
        scales: floatTensor(Float32Array.from(scales), [scales.length]),
      })
      for (const { name, rounding } of touched)
        yield { name, tensor: results[name] as FloatTensor, rounding }
    }
  }

  return { mergeEach, targets, release }
}

/** Which tensors of `base` these LoRAs change, and what each adds. */
export function listTargets(
  base: ReadonlyMap<string, TensorSlice>,
  adapters: readonly LoraAdapter[],
  rounding: MergeOptions['rounding'],
) {
  const names = new Set(adapters.flatMap(({ deltas }) => [...deltas.keys()]))
  return [...names].flatMap((name): MergeTarget[] => {
    const slice = base.get(name)
    if (!slice) return []
    const deltas: (readonly Delta[])[] = []
    adapters.forEach((adapter, i) => {
      const own = adapter.deltas.get(name)
      if (own) deltas[i] = own
    })
    const own = typeof rounding === 'function' ? rounding(name, slice) : rounding
    return [{ name, rounding: own, base: slice, deltas, neighbours: neighboursOf(base, deltas) }]
  })
}

function neighboursOf(base: ReadonlyMap<string, TensorSlice>, deltas: MergeTarget['deltas']) {
  const names = deltas
    .flat()
    .flatMap((delta) => (delta.kind === 'dora' ? delta.others.map(({ tensor }) => tensor) : []))
  return new Map(names.map((name) => [name, base.get(name)!]))
}

const float32Bytes = ({ base }: MergeTarget) => 4 * elementCount(base.shape)

function checkScales(scales: readonly number[], count: number) {
  if (scales.length !== count || !scales.every(Number.isFinite))
    throw new RangeError(`Expected ${count} finite LoRA scales but got [${scales}]`)
}
