/**
 * Decides which models stay in a device's memory. A request needs some of them together, and memory
 * for its run; models that no request holds stay while they fit, least recently used out first.
 */
import { FluxdError } from '../../errors.js'

/** What is loaded and unloaded as one: a transformer at a precision, T5, CLIP, the VAE. */
export type Resident = {
  readonly name: string
  readonly bytes: number
  /** The resident without which this one is useless: both are evicted together. */
  readonly of?: string | undefined
}

export type MemoryRequest = {
  readonly models: readonly Resident[]
  /** The memory of the run itself, at its peak. */
  readonly runBytes: number
}

/** What serves a request: evict first, then load. */
export type EvictionPlan = {
  readonly evict: readonly Resident[]
  readonly load: readonly Resident[]
}

export type MemoryBudget = {
  /**
   * The plan for a request, counted as carried out; none of its models is evicted before `release`.
   * Throws `not_supported`, with all sizes, where it does not fit together with the open requests.
   */
  readonly acquire: (request: MemoryRequest) => EvictionPlan
  readonly release: (request: MemoryRequest) => void
  /**
   * The plan for a model that is useful but not necessary: it is loaded into free memory, or in
   * place of models that have not been used since the last call for it. Undefined where neither
   * is enough.
   */
  readonly acquireOptional: (model: Resident) => EvictionPlan | undefined
  /** Least recently used first. */
  readonly residents: () => readonly Resident[]
  /** Removes a model that could not be loaded or was unloaded; returns its dependents. */
  readonly forget: (name: string) => readonly Resident[]
}

/** A budget over `capacity` bytes: what is free when nothing is loaded, less a reserve. */
export function createMemoryBudget(capacity: number): MemoryBudget {
  const residents = createResidents()
  const open = new Set<MemoryRequest>()
  const requestedAt = new Map<string, number>()
  let now = 0

  /** Evicts until `bytes` more fit; dependents of a model are evicted before it. */
  function evict(candidates: readonly Resident[], bytes: number): Resident[] {
    const chosen = chooseEvictions(candidates, sum(residents.list()) + bytes - capacity)
    return [...new Set(chosen.flatMap((model) => [...residents.forget(model.name), model]))]
  }

  function acquire(request: MemoryRequest): EvictionPlan {
    now++
    const requests = [...open, request]
    const needed = modelsOf(requests)
    const runBytes = runBytesOf(requests)
    if (sum([...needed.values()]) + runBytes > capacity)
      throw tooLarge([...needed.values()], runBytes, capacity)
    const load = request.models.filter(({ name }) => !residents.has(name))
    const others = residents.list().filter(({ name }) => !needed.has(name))
    const evicted = evict(others, sum(load) + runBytes)
    for (const model of request.models) residents.use(model, now)
    open.add(request)
    return { evict: evicted, load }
  }

  function acquireOptional(model: Resident): EvictionPlan | undefined {
    now++
    const since = requestedAt.get(model.name) ?? 0
    requestedAt.set(model.name, now)
    const load = residents.has(model.name) ? [] : [model]
    const inUse = modelsOf([...open])
    const idle = residents.list().filter(({ name, usedAt }) => !inUse.has(name) && usedAt < since)
    const runBytes = runBytesOf([...open])
    const excess = sum([...residents.list(), ...load]) + runBytes - capacity
    if (load.length > 0 && excess > sum(idle)) return undefined
    const evicted = load.length > 0 ? evict(idle, sum(load) + runBytes) : []
    residents.use(model, now)
    return { evict: evicted, load }
  }

  return {
    acquire,
    release(request) {
      open.delete(request)
    },
    acquireOptional,
    residents: () => residents.list().map(({ usedAt: _, ...model }) => model),
    forget: residents.forget,
  }
}

/** What is resident, and when each model was used last. */
function createResidents() {
  // A Map keeps its order: least recently used first.
  const residents = new Map<string, Resident & { readonly usedAt: number }>()
  return {
    has: (name: string) => residents.has(name),
    list: () => [...residents.values()],
    use(model: Resident, usedAt: number) {
      residents.delete(model.name)
      residents.set(model.name, { ...model, usedAt })
    },
    /** Returns the model's dependents, which are removed, too. */
    forget(name: string): Resident[] {
      const dependents = [...residents.values()].filter((model) => model.of === name)
      for (const each of [name, ...dependents.map((model) => model.name)]) residents.delete(each)
      return dependents
    },
  }
}

const modelsOf = (requests: readonly MemoryRequest[]) =>
  new Map(requests.flatMap(({ models }) => models).map((model) => [model.name, model]))

const runBytesOf = (requests: readonly MemoryRequest[]) =>
  requests.reduce((total, { runBytes }) => total + runBytes, 0)

/**
 * The least recently used models that take `excess` bytes together. A small one is left out again
 * where a larger one, chosen after it, frees enough alone.
 */
function chooseEvictions(models: readonly Resident[], excess: number): Resident[] {
  const chosen: Resident[] = []
  for (const model of models) if (sum(chosen) < excess) chosen.push(model)
  return chosen.reduceRight<Resident[]>((kept, model) => {
    const without = kept.filter((each) => each !== model)
    return sum(without) >= excess ? without : kept
  }, chosen)
}

const sum = (models: readonly Resident[]) => models.reduce((total, { bytes }) => total + bytes, 0)

function formatBytes(bytes: number): string {
  const [unit, size] = bytes >= 1e9 ? ['GB', 1e9] : bytes >= 1e6 ? ['MB', 1e6] : ['kB', 1e3]
  return `${(bytes / size).toFixed(1)} ${unit}`
}

function tooLarge(models: readonly Resident[], runBytes: number, capacity: number): FluxdError {
  const sizes = models.map(({ name, bytes }) => `${name} ${formatBytes(bytes)}`)
  const needed = formatBytes(sum(models) + runBytes)
  return new FluxdError(
    'not_supported',
    `Expected a prediction that fits into ${formatBytes(capacity)} of memory but it needs ` +
      `${needed}: ${[...sizes, `its run ${formatBytes(runBytes)}`].join(', ')}`,
  )
}
