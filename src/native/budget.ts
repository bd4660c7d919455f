/**
 * Which networks stay in a GPU's memory. A prediction needs some of them together, and memory for
 * its run; what is not needed stays as long as there is room, and goes in the order of its last use.
 */
import { FluxdError } from '../errors.js'

/** Weights that are loaded and evicted as one: a transformer at a precision, T5, CLIP, the VAE. */
export type Resident = { readonly name: string; readonly bytes: number }

export type Demand = {
  readonly parts: readonly Resident[]
  /** What the run itself takes, at its peak. */
  readonly runBytes: number
}

/** What is to be done before a demand can be served: evict first, then load. */
export type Admission = {
  readonly evict: readonly Resident[]
  readonly load: readonly Resident[]
}

export type Budget = {
  /**
   * Decides for a demand, and takes its decision as carried out.
   * Throws `not_supported`, with all sizes, where it could not be served alone.
   */
  readonly admit: (demand: Demand) => Admission
  /** Least recently used first. */
  readonly residents: () => readonly Resident[]
  /** Forgets a part that could not be loaded, or that was released. */
  readonly drop: (name: string) => void
}

/** A budget over `capacity` bytes: what is free when nothing is loaded, less a reserve. */
export function createBudget(capacity: number): Budget {
  // A Map keeps its order: least recently used first.
  const residents = new Map<string, Resident>()
  return {
    admit({ parts, runBytes }) {
      const needed = sum(parts) + runBytes
      if (needed > capacity) throw tooLarge(parts, runBytes, capacity)
      const wanted = new Set(parts.map(({ name }) => name))
      const others = [...residents.values()].filter(({ name }) => !wanted.has(name))
      const evict = chooseEvictions(others, sum(others) + needed - capacity)
      const load = parts.filter(({ name }) => !residents.has(name))
      for (const { name } of evict) residents.delete(name)
      for (const part of parts) {
        residents.delete(part.name)
        residents.set(part.name, part)
      }
      return { evict, load }
    },
    residents: () => [...residents.values()],
    drop: (name) => void residents.delete(name),
  }
}

/**
 * The least recently used parts that give `excess` bytes together. A part that is not needed any
 * more once a larger one has gone stays.
 */
function chooseEvictions(parts: readonly Resident[], excess: number): Resident[] {
  const chosen: Resident[] = []
  for (const part of parts) if (sum(chosen) < excess) chosen.push(part)
  return chosen.reduceRight<Resident[]>((kept, part) => {
    const without = kept.filter((each) => each !== part)
    return sum(without) >= excess ? without : kept
  }, chosen)
}

const sum = (parts: readonly Resident[]) => parts.reduce((total, { bytes }) => total + bytes, 0)

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`

function tooLarge(parts: readonly Resident[], runBytes: number, capacity: number): FluxdError {
  const sizes = parts.map(({ name, bytes }) => `${name} ${gigabytes(bytes)}`)
  return new FluxdError(
    'not_supported',
    `Expected a prediction that fits into ${gigabytes(capacity)} of GPU memory but it needs ${gigabytes(sum(parts) + runBytes)}: ${[...sizes, `its run ${gigabytes(runBytes)}`].join(', ')}`,
  )
}

/** Lengths of a transformer's run. */
export type RunShape = {
  /** Text and image together. */
  readonly tokens: number
  readonly width: number
  readonly mlpHidden: number
  readonly bytesPerValue: number
}

/**
 * The bytes of a step's activations at their peak, inside a single block: the stream, its norm, the
 * fused qkv, q, k and v, the attention's result, the feed-forward layer and both side by side.
 */
export const stepBytes = ({ tokens, width, mlpHidden, bytesPerValue }: RunShape): number =>
  tokens *
  bytesPerValue *
  (2 * width + 3 * width + 3 * width + width + mlpHidden + width + mlpHidden)
