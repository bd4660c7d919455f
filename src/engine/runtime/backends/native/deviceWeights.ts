/**
 * The weights on a device, by where their values come from, with reference counts. A network with
 * merged LoRAs shares all other weights with its base; weights are freed with their last lease.
 */

import { elementCount, storedBytes } from '../../../../safetensors/tensor.js'
import type { SharedWeight } from '../../onnx/graph.js'
import type { TensorSource } from '../../weights/weights.js'
import type { Adaptable, LowRankChanges, WeightBase } from '../backend.js'
import type { Addon, NativeDevice, WeightPart, WeightSet, WeightSource } from './addon.js'
import { createLoraWeights, type ReleasableLoraWeights } from './loraWeights.js'

/** Weights that sessions can use until the lease is released. */
export type WeightLease = Adaptable & {
  /** For a session's options: together they hold every weight. */
  readonly sets: readonly WeightSet[]
  /** Another lease of the same weights. */
  readonly retain: () => WeightLease
  readonly release: () => Promise<void>
}

/**
 * Adaptable weights can be changed in place: they are shared as a whole or not at all, so that a
 * whole set is never kept for a few of its weights. Fixed ones share every weight they can.
 */
export type WeightUse = 'fixed' | 'adaptable'

export type DeviceWeights = {
  /** Uploads the weights that the device lacks; each group is kept as long as it is leased. */
  readonly acquire: (
    groups: readonly (readonly SharedWeight[])[],
    use?: WeightUse,
  ) => Promise<WeightLease>
}

/** One upload, and how many leases it has. */
type UploadedSet = ReleasableLoraWeights & {
  readonly set: WeightSet
  /** By name, where the values come from; undefined for values that were in memory only. */
  readonly origins: ReadonlyMap<string, string | undefined>
  readonly weights: readonly SharedWeight[]
  readonly use: WeightUse
  leases: number
}

// Enough to fill a bus; the threads wait for reads of the file.
const uploadThreads = 4

export function createDeviceWeights(addon: Addon, device: NativeDevice): DeviceWeights {
  const uploaded = new Set<UploadedSet>()

  async function upload(weights: readonly SharedWeight[], use: WeightUse): Promise<UploadedSet> {
    const set = new addon.WeightSet(device)
    const base = use === 'fixed' ? 'none' : 'files'
    await set.upload(weights.map(toSource), { base, threads: uploadThreads })
    const origins = new Map(weights.map((weight) => [weight.name, originOf(weight)]))
    return { ...createLoraWeights(set, weights), set, origins, weights, use, leases: 0 }
  }

  async function release(sets: readonly UploadedSet[]): Promise<void> {
    for (const each of sets) each.leases--
    for (const each of sets) if (each.leases === 0 && uploaded.delete(each)) await each.release()
  }

  function lease(sets: readonly UploadedSet[]): WeightLease {
    for (const each of sets) each.leases++
    return {
      ...adaptableOf(sets),
      sets: sets.map(({ set }) => set),
      retain: () => lease(sets),
      release: () => release(sets),
    }
  }

  /** The sets that have all of these weights together, with one more lease each. */
  async function acquireGroup(
    weights: readonly SharedWeight[],
    use: WeightUse,
  ): Promise<UploadedSet[]> {
    const base = findShared(uploaded, weights, use)
    // Leased while the other weights are uploaded, so that it is not freed meanwhile.
    if (base) base.leases++
    try {
      const missing = weights.filter((weight) => !base || !has(base, weight))
      if (missing.length === 0) return base ? [base] : []
      const own = await upload(missing, use)
      uploaded.add(own)
      own.leases++
      return base ? [base, own] : [own]
    } catch (error) {
      if (base) await release([base])
      throw error
    }
  }

  return {
    async acquire(groups, use = 'fixed') {
      const acquired: UploadedSet[] = []
      try {
        for (const weights of groups) acquired.push(...(await acquireGroup(weights, use)))
        return lease(acquired)
      } finally {
        await release(acquired)
      }
    },
  }
}

/** The uploaded set that has the most of these weights. */
function findShared(
  uploaded: Iterable<UploadedSet>,
  weights: readonly SharedWeight[],
  use: WeightUse,
): UploadedSet | undefined {
  const hits = (each: UploadedSet) => weights.filter((weight) => has(each, weight)).length
  const isEnough = (each: UploadedSet) =>
    use === 'fixed' ? hits(each) > 0 : each.use === use && hits(each) === weights.length
  return [...uploaded].filter(isEnough).sort((a, b) => hits(b) - hits(a))[0]
}

/** The sets' ledgers as one: a set of LoRAs is active where it is active in all of them. */
function adaptableOf(sets: readonly UploadedSet[]): Adaptable {
  return {
    active() {
      const [first, ...others] = sets.map((each) => each.active())
      return others.every((key) => key === first) ? first : undefined
    },
    async activate(changes) {
      checkNames(sets, changes)
      for (const each of sets) await each.activate(changes)
    },
    async stage(changes) {
      checkNames(sets, changes)
      for (const each of sets) await each.stage(changes)
    },
    base: baseOf(sets),
  }
}

function checkNames(sets: readonly UploadedSet[], { matrices }: LowRankChanges) {
  const names = new Set(
    sets.flatMap(({ weights }) => weights.flatMap(({ parts }) => parts)).map(({ name }) => name),
  )
  for (const name of matrices.keys())
    if (!names.has(name))
      throw new RangeError(`Expected the name of a weight to change but got ${name}`)
}

/** Of the sets together. Fixed sets have none. */
function baseOf(sets: readonly UploadedSet[]): WeightBase {
  const adaptable = sets.filter(({ use }) => use === 'adaptable')
  async function drop() {
    for (const { set } of adaptable) await set.dropBase()
  }
  async function keep() {
    try {
      for (const { set } of adaptable) await set.keepBase()
    } catch (error) {
      // All or none: the caller drops only what was kept as a whole.
      await drop()
      throw error
    }
  }
  const bytes = adaptable
    .flatMap(({ weights }) => weights)
    .reduce((sum, weight) => sum + baseBytes(weight), 0)
  return { bytes, keep, drop }
}

/** Only matrices have a base; the base of a quantised one has the values before quantisation. */
function baseBytes({ dtype, dims, parts }: SharedWeight): number {
  if (dims.length !== 2) return 0
  const isExact = parts.every((part) => part.dtype === 'BF16')
  const kept = dtype !== 'F8_E4M3' ? dtype : isExact ? 'BF16' : 'F32'
  return storedBytes[kept] * elementCount(dims)
}

const has = ({ origins }: UploadedSet, weight: SharedWeight) => {
  const origin = originOf(weight)
  return origin !== undefined && origins.get(weight.name) === origin
}

/** Where the values are stored, which identifies them; undefined where they are in memory. */
function originOf({ parts }: SharedWeight): string | undefined {
  const origins = parts.map((part) =>
    'values' in part ? undefined : `${part.file} ${part.offset} ${part.dtype} ${part.scale ?? 1}`,
  )
  return origins.includes(undefined) ? undefined : origins.join('\n')
}

const toSource = ({ name, dtype, dims, parts }: SharedWeight): WeightSource => ({
  name,
  dtype,
  dims,
  parts: parts.map(toPart),
})

function toPart(source: TensorSource): WeightPart {
  const rows = source.shape[0]!
  if ('values' in source) return { rows, dtype: source.dtype, data: source.values }
  const { name, dtype, file, offset, scale = 1 } = source
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16' && dtype !== 'F8_E4M3')
    throw new TypeError(`Expected ${name} in floats but it is ${dtype}`)
  return { rows, dtype, file, offset, scale }
}
