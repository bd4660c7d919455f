/**
 * The weights that lie on a device, by where their values come from. A network with LoRAs shares all
 * that they leave alone with its base; weights go with the last session that uses them.
 */

import { elementCount, storedBytes } from '../../../../safetensors/tensor.js'
import type { SharedWeight } from '../../onnx/graph.js'
import type { TensorSource } from '../../weights/weights.js'
import type { Adaptable, LowRankChanges, WeightBase } from '../backend.js'
import type { Addon, NativeDevice, WeightPart, WeightSet, WeightSource } from './addon.js'
import { type AdaptableSet, createAdaptableSet } from './loraWeights.js'

/** Weights that sessions can use, until they are dropped. */
export type StockedWeights = Adaptable & {
  /** For a session's options: together they hold every weight. */
  readonly sets: readonly WeightSet[]
  /** The same weights for one more user. */
  readonly share: () => StockedWeights
  readonly drop: () => Promise<void>
}

/**
 * Adaptable weights can be changed in place: they are shared as a whole or not at all, so that none
 * is kept because of a few. Fixed ones take from others all that these have.
 */
export type WeightUse = 'fixed' | 'adaptable'

export type WeightStock = {
  /** Uploads what the device does not have yet; each group is kept as long as it is used. */
  readonly take: (
    groups: readonly (readonly SharedWeight[])[],
    use?: WeightUse,
  ) => Promise<StockedWeights>
}

type Held = AdaptableSet & {
  readonly set: WeightSet
  /** By name, where the values come from; values that were in memory only come from nowhere. */
  readonly places: ReadonlyMap<string, string | undefined>
  readonly weights: readonly SharedWeight[]
  readonly use: WeightUse
  users: number
}

// Enough to fill a bus; reading a file is what they wait for.
const uploadThreads = 4

export function createWeightStock(addon: Addon, device: NativeDevice): WeightStock {
  const held = new Set<Held>()

  async function upload(weights: readonly SharedWeight[], use: WeightUse): Promise<Held> {
    const set = new addon.WeightSet(device)
    const base = use === 'fixed' ? 'none' : 'files'
    await set.upload(weights.map(toSource), { base, threads: uploadThreads })
    const places = new Map(weights.map((weight) => [weight.name, placeOf(weight)]))
    return { ...createAdaptableSet(set, weights), set, places, weights, use, users: 0 }
  }

  /** The set that has the most of these weights already. */
  function findBase(weights: readonly SharedWeight[], use: WeightUse): Held | undefined {
    const hits = (each: Held) => weights.filter((weight) => has(each, weight)).length
    const isEnough = (each: Held) =>
      use === 'fixed' ? hits(each) > 0 : each.use === use && hits(each) === weights.length
    return [...held].filter(isEnough).sort((a, b) => hits(b) - hits(a))[0]
  }

  async function drop(all: readonly Held[]): Promise<void> {
    for (const each of all) each.users--
    for (const each of all) if (each.users === 0 && held.delete(each)) await each.release()
  }

  function share(all: readonly Held[]): StockedWeights {
    for (const each of all) each.users++
    return {
      sets: all.map(({ set }) => set),
      share: () => share(all),
      drop: () => drop(all),
      async adapt(changes) {
        checkNames(all, changes)
        for (const each of all) await each.adapt(changes)
      },
      async stage(changes) {
        checkNames(all, changes)
        for (const each of all) await each.stage(changes)
      },
      base: baseOf(all),
    }
  }

  /** The sets that have all of these weights together, with one more user each. */
  async function takeGroup(weights: readonly SharedWeight[], use: WeightUse): Promise<Held[]> {
    const base = findBase(weights, use)
    // In use while the rest is under way, lest it goes.
    if (base) base.users++
    try {
      const missing = weights.filter((weight) => !base || !has(base, weight))
      if (missing.length === 0) return base ? [base] : []
      const own = await upload(missing, use)
      held.add(own)
      own.users++
      return base ? [base, own] : [own]
    } catch (error) {
      if (base) await drop([base])
      throw error
    }
  }

  return {
    async take(groups, use = 'fixed') {
      const taken: Held[] = []
      try {
        for (const weights of groups) taken.push(...(await takeGroup(weights, use)))
        return share(taken)
      } finally {
        await drop(taken)
      }
    },
  }
}

function checkNames(all: readonly Held[], changes: LowRankChanges) {
  const names = new Set(
    all.flatMap(({ weights }) => weights.flatMap(({ parts }) => parts)).map(({ name }) => name),
  )
  for (const name of changes.keys())
    if (!names.has(name))
      throw new RangeError(`Expected the name of a weight to change but got ${name}`)
}

/** Of the sets together. Those that are fixed have none. */
function baseOf(all: readonly Held[]): WeightBase {
  const adaptable = all.filter(({ use }) => use === 'adaptable')
  const forEach = async (act: (set: WeightSet) => Promise<void>) => {
    for (const { set } of adaptable) await act(set)
  }
  const drop = () => forEach((set) => set.dropBase())
  return {
    bytes: adaptable
      .flatMap(({ weights }) => weights)
      .reduce((sum, each) => sum + baseBytes(each), 0),
    async keep() {
      try {
        await forEach((set) => set.keepBase())
      } catch (error) {
        // All or none: nobody would drop what some have kept.
        await drop()
        throw error
      }
    },
    drop,
  }
}

/** Matrices have a base; what is quantised keeps the values that it is quantised from. */
function baseBytes({ dtype, dims, parts }: SharedWeight): number {
  if (dims.length !== 2) return 0
  const isExact = parts.every((part) => part.dtype === 'BF16')
  const kept = dtype !== 'F8_E4M3' ? dtype : isExact ? 'BF16' : 'F32'
  return storedBytes[kept] * elementCount(dims)
}

const has = ({ places }: Held, weight: SharedWeight) => {
  const place = placeOf(weight)
  return place !== undefined && places.get(weight.name) === place
}

/** Tells values apart without reading them; undefined where they are in memory. */
function placeOf({ parts }: SharedWeight): string | undefined {
  const places = parts.map((part) =>
    'values' in part ? undefined : `${part.file} ${part.offset} ${part.dtype} ${part.scale ?? 1}`,
  )
  return places.includes(undefined) ? undefined : places.join('\n')
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
