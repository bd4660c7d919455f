/**
 * The weights that lie on a device, by where their values come from. A network with LoRAs shares all
 * that they leave alone with its base; weights go with the last session that uses them.
 */
import type { Addon, NativeDevice, WeightPart, WeightSet, WeightSource } from '../native/addon.js'
import { type Adapt, type LowRankChanges, unchanged } from './backend.js'
import type { SharedWeight } from './graph.js'
import { elementCount } from './tensor.js'
import type { TensorSource } from './weights.js'

/** Weights that sessions can use, until they are dropped. */
export type StockedWeights = {
  /** For a session's options: together they hold every weight. */
  readonly sets: readonly WeightSet[]
  /** The same weights for one more user. */
  readonly share: () => StockedWeights
  readonly drop: () => Promise<void>
  /** Of weights that were taken to be adaptable, as long as somebody uses them. */
  readonly adapt: Adapt
}

/** Adaptable weights can be changed in place; their base is kept for that. */
export type WeightUse = 'fixed' | 'adaptable'

export type WeightStock = {
  /** Uploads what the device does not have yet. */
  readonly take: (weights: readonly SharedWeight[], use?: WeightUse) => Promise<StockedWeights>
}

type Held = {
  readonly set: WeightSet
  /** By name, where the values come from; values that were in memory only come from nowhere. */
  readonly places: ReadonlyMap<string, string | undefined>
  readonly weights: readonly SharedWeight[]
  readonly base: WeightBase
  users: number
  /** What the weights are changed by; undefined after a failure, when nobody knows. */
  applied: LowRankChanges | undefined
}

type WeightBase = Parameters<WeightSet['upload']>[1]['base']

// What a second copy of a network leaves free: for another variant with its T5, and for runs.
const reservedBytes = 44 * 2 ** 30

// Enough to fill a bus; reading a file is what they wait for.
const uploadThreads = 4

export function createWeightStock(addon: Addon, device: NativeDevice): WeightStock {
  const held = new Set<Held>()

  async function upload(weights: readonly SharedWeight[], use: WeightUse): Promise<Held> {
    const set = new addon.WeightSet(device)
    const base = chooseBase(weights, use)
    await set.upload(weights.map(toSource), { base, threads: uploadThreads })
    const places = new Map(weights.map((weight) => [weight.name, placeOf(weight)]))
    return { set, places, weights, base, users: 0, applied: unchanged }
  }

  /** On the device, where there is room for two copies: reading files anew takes much longer. */
  function chooseBase(weights: readonly SharedWeight[], use: WeightUse): WeightBase {
    // Values in memory are merged already.
    if (use === 'fixed' || weights.some((weight) => placeOf(weight) === undefined)) return 'none'
    const bytes = weights.reduce((sum, weight) => sum + bytesWithBase(weight), 0)
    return bytes + reservedBytes <= device.memory().free ? 'device' : 'files'
  }

  /** The set that has the most of these weights already. */
  function findBase(weights: readonly SharedWeight[], use: WeightUse): Held | undefined {
    const hits = (each: Held) => weights.filter((weight) => has(each, weight)).length
    return [...held]
      .filter((each) => hits(each) > 0 && (use === 'fixed' || each.base !== 'none'))
      .sort((a, b) => hits(b) - hits(a))[0]
  }

  function share(all: readonly Held[]): StockedWeights {
    for (const each of all) each.users++
    return {
      sets: all.map(({ set }) => set),
      share: () => share(all),
      async drop() {
        for (const each of all) each.users--
        for (const each of all) if (each.users === 0 && held.delete(each)) await each.set.release()
      },
      async adapt(changes) {
        checkNames(all, changes)
        for (const each of all) await apply(each, changes)
      },
    }
  }

  return {
    async take(weights, use = 'fixed') {
      const base = findBase(weights, use)
      // Shared while the rest is under way, lest it goes.
      const kept = share(base ? [base] : [])
      try {
        const missing = weights.filter((weight) => !base || !has(base, weight))
        const own = missing.length > 0 ? await upload(missing, use) : undefined
        if (own) held.add(own)
        return share([base, own].filter((each) => each !== undefined))
      } finally {
        await kept.drop()
      }
    },
  }
}

async function apply(each: Held, changes: LowRankChanges) {
  const { applied, set, weights } = each
  if (applied === changes) return
  const own = weights.flatMap((weight) => changesOf(weight, changes))
  each.applied = undefined
  if (applied && haveSameFactors(applied, changes)) await set.rescale(own.map(({ scale }) => scale))
  else await set.merge(own)
  each.applied = changes
}

/** Whether they differ in scale only: then the device has the factors already. */
const haveSameFactors = (one: LowRankChanges, other: LowRankChanges) =>
  one.size === other.size &&
  [...other].every(([name, { up, down }]) => {
    const known = one.get(name)
    return known?.up === up && known.down === down
  })

/** The changes of a weight's parts, by the rows where they lie. */
function changesOf({ name, parts }: SharedWeight, changes: LowRankChanges) {
  let end = 0
  return parts.flatMap((part) => {
    const rows = part.shape[0]!
    end += rows
    const change = changes.get(part.name)
    return change ? [{ name, begin: end - rows, rows, ...change }] : []
  })
}

function checkNames(all: readonly Held[], changes: LowRankChanges) {
  const names = new Set(
    all.flatMap(({ weights }) => weights.flatMap(({ parts }) => parts)).map(({ name }) => name),
  )
  for (const name of changes.keys())
    if (!names.has(name))
      throw new RangeError(`Expected the name of a weight to change but got ${name}`)
}

const widths = { F32: 4, BF16: 2, F8_E4M3: 1 } as const

/** What is quantised keeps the values that it is quantised from. */
function bytesWithBase({ dtype, dims, parts }: SharedWeight): number {
  const isExact = parts.every((part) => part.dtype === 'BF16')
  const base = dtype === 'F8_E4M3' ? widths[isExact ? 'BF16' : 'F32'] : widths[dtype]
  return (widths[dtype] + base) * elementCount(dims)
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
