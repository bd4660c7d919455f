/**
 * The weights that lie on a device, by where their values come from. A network with LoRAs shares all
 * that they leave alone with its base; weights go with the last session that uses them.
 */
import type { Addon, NativeDevice, WeightPart, WeightSet, WeightSource } from '../native/addon.js'
import type { SharedWeight } from './graph.js'
import type { TensorSource } from './weights.js'

/** Weights that sessions can use, until they are dropped. */
export type StockedWeights = {
  /** For a session's options: together they hold every weight. */
  readonly sets: readonly WeightSet[]
  /** The same weights for one more user. */
  readonly share: () => StockedWeights
  readonly drop: () => Promise<void>
}

export type WeightStock = {
  /** Uploads what the device does not have yet. */
  readonly take: (weights: readonly SharedWeight[]) => Promise<StockedWeights>
}

type Held = {
  readonly set: WeightSet
  /** By name, where the values come from; values that were in memory only come from nowhere. */
  readonly places: ReadonlyMap<string, string | undefined>
  users: number
}

// Enough to fill a bus; reading a file is what they wait for.
const uploadThreads = 4

export function createWeightStock(addon: Addon, device: NativeDevice): WeightStock {
  const held = new Set<Held>()

  async function upload(weights: readonly SharedWeight[]): Promise<Held> {
    const set = new addon.WeightSet(device)
    await set.upload(weights.map(toSource), { base: 'none', threads: uploadThreads })
    const places = new Map(weights.map((weight) => [weight.name, placeOf(weight)]))
    return { set, places, users: 0 }
  }

  /** The set that has the most of these weights already. */
  function findBase(weights: readonly SharedWeight[]): Held | undefined {
    const hits = (each: Held) => weights.filter((weight) => has(each, weight)).length
    return [...held].filter((each) => hits(each) > 0).sort((a, b) => hits(b) - hits(a))[0]
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
    }
  }

  return {
    async take(weights) {
      const base = findBase(weights)
      // Shared while the rest is under way, lest it goes.
      const kept = share(base ? [base] : [])
      try {
        const missing = weights.filter((weight) => !base || !has(base, weight))
        const own = missing.length > 0 ? await upload(missing) : undefined
        if (own) held.add(own)
        return share([base, own].filter((each) => each !== undefined))
      } finally {
        await kept.drop()
      }
    },
  }
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
