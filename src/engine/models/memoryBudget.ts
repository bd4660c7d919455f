/**
 * Which networks stay in a device's memory. Work needs some of them together, and memory for its
 * run; what is not needed stays as long as there is room, and goes in the order of its last use.
 */
import { FluxdError } from '../../errors.js'

/** What is loaded and given back as one: a transformer at a precision, T5, CLIP, the VAE. */
export type Resident = {
  readonly name: string
  readonly bytes: number
  /** The resident that this one is of no use without: it goes with it. */
  readonly of?: string
}

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
   * Decides for a demand, and takes its decision as carried out: until `leave` nothing of it goes.
   * Throws `not_supported`, with all sizes, where it does not fit beside those that are open.
   */
  readonly admit: (demand: Demand) => Admission
  readonly leave: (demand: Demand) => void
  /**
   * For what is useful and not necessary: it comes where there is room, or in place of what has not
   * been used since it was offered before. Undefined where it does not come.
   */
  readonly offer: (part: Resident) => Admission | undefined
  /** Least recently used first. */
  readonly residents: () => readonly Resident[]
  /** Forgets a part that could not be loaded or that was given back, and what is of no use without. */
  readonly drop: (name: string) => readonly Resident[]
}

/** A budget over `capacity` bytes: what is free when nothing is loaded, less a reserve. */
export function createBudget(capacity: number): Budget {
  // A Map keeps its order: least recently used first.
  const residents = new Map<string, Resident & { readonly usedAt: number }>()
  const open = new Set<Demand>()
  const offeredAt = new Map<string, number>()
  let now = 0

  function use(part: Resident): void {
    residents.delete(part.name)
    residents.set(part.name, { ...part, usedAt: now })
  }

  function drop(name: string): Resident[] {
    const dependents = [...residents.values()].filter((part) => part.of === name)
    for (const each of [name, ...dependents.map((part) => part.name)]) residents.delete(each)
    return dependents
  }

  /** Makes room for `bytes` beside all others; what depends on a part goes before it. */
  function evict(candidates: readonly Resident[], bytes: number): Resident[] {
    const excess = sum([...residents.values()]) + bytes - capacity
    const chosen = chooseEvictions(candidates, excess)
    return [...new Set(chosen.flatMap((part) => [...drop(part.name), part]))]
  }

  function admit(demand: Demand): Admission {
    now++
    const demands = [...open, demand]
    const needed = new Map(demands.flatMap(({ parts }) => parts).map((part) => [part.name, part]))
    const runBytes = demands.reduce((total, each) => total + each.runBytes, 0)
    if (sum([...needed.values()]) + runBytes > capacity)
      throw tooLarge([...needed.values()], runBytes, capacity)
    const load = demand.parts.filter(({ name }) => !residents.has(name))
    const others = [...residents.values()].filter(({ name }) => !needed.has(name))
    const evicted = evict(others, sum(load) + runBytes)
    for (const part of demand.parts) use(part)
    open.add(demand)
    return { evict: evicted, load }
  }

  function offer(part: Resident): Admission | undefined {
    now++
    const since = offeredAt.get(part.name) ?? 0
    offeredAt.set(part.name, now)
    const load = residents.has(part.name) ? [] : [part]
    const inUse = new Set([...open].flatMap(({ parts }) => parts).map(({ name }) => name))
    const idle = [...residents.values()].filter(
      ({ name, usedAt }) => !inUse.has(name) && usedAt < since,
    )
    const runBytes = [...open].reduce((total, each) => total + each.runBytes, 0)
    const excess = sum([...residents.values(), ...load]) + runBytes - capacity
    if (load.length > 0 && excess > sum(idle)) return undefined
    const evicted = load.length > 0 ? evict(idle, sum(load) + runBytes) : []
    use(part)
    return { evict: evicted, load }
  }

  return {
    admit,
    leave: (demand) => void open.delete(demand),
    offer,
    residents: () => [...residents.values()].map(({ usedAt: _, ...part }) => part),
    drop,
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

function describe(bytes: number): string {
  const [unit, size] = bytes >= 1e9 ? ['GB', 1e9] : bytes >= 1e6 ? ['MB', 1e6] : ['kB', 1e3]
  return `${(bytes / size).toFixed(1)} ${unit}`
}

function tooLarge(parts: readonly Resident[], runBytes: number, capacity: number): FluxdError {
  const sizes = parts.map(({ name, bytes }) => `${name} ${describe(bytes)}`)
  return new FluxdError(
    'not_supported',
    `Expected a prediction that fits into ${describe(capacity)} of memory but it needs ${describe(sum(parts) + runBytes)}: ${[...sizes, `its run ${describe(runBytes)}`].join(', ')}`,
  )
}
