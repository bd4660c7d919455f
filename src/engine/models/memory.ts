/**
 * The models that are loaded on a device. They are loaded when they are acquired, within a memory
 * budget, and unloaded when others need their memory.
 */
import type { Session } from '../runtime/backends/ort/session.js'
import type { EvictionPlan, MemoryBudget, Resident } from './memoryBudget.js'

/** What is loaded as one. */
export type Network = { readonly sessions: readonly Session[] }

export type ModelOptions<T extends Network> = Resident & {
  readonly load: () => Promise<T>
  /** What unloading takes apart from releasing the sessions. */
  readonly unload?: (network: T) => Promise<void>
  /** At most one model of a slot is loaded: loading another unloads it first. */
  readonly slot?: string
}

/** A network that may be loaded or not. */
export type ManagedModel<T extends Network = Network> = Resident & {
  readonly isLoaded: () => boolean
  /** Of a loaded model; it stays loaded while it is acquired. Throws where it is not loaded. */
  readonly network: () => T
}

export type Lease<T> = { readonly model: T; readonly release: () => void }

/** Models that have to be in memory at the same time, and the memory of their run. */
export type AcquireOptions = {
  readonly alongside?: readonly ManagedModel[]
  readonly runBytes?: number
}

export type ModelMemory = {
  /** A model that can be acquired; nothing is loaded. Models of one name are the same model. */
  readonly manage: <T extends Network>(options: ModelOptions<T>) => ManagedModel<T>
  /**
   * Loads those of `models` that are missing, keeps `runBytes` free for their run, and returns the
   * function that releases them. Throws `not_supported`, with the numbers, where they cannot fit,
   * and the error of a model that cannot be loaded.
   */
  readonly acquire: (models: readonly ManagedModel[], runBytes?: number) => Promise<() => void>
  /** Loads a model that is useful but not necessary, if no model of more use is evicted for it. */
  readonly acquireOptional: (model: ManagedModel) => Promise<void>
  readonly unload: (models: readonly ManagedModel[]) => Promise<void>
  readonly unloadSlot: (slot: string) => Promise<void>
  /** Seconds spent inside ONNX Runtime so far, by all models that are or were loaded. */
  readonly busySeconds: () => number
}

type Loaded = {
  readonly model: Resident
  readonly slot: string | undefined
  readonly network: Network
  readonly unload: () => Promise<void>
}

type Loader = { readonly slot: string | undefined; readonly load: () => Promise<Loaded> }

/** What is loaded, by name; loading and unloading are the budget's decisions. */
function createLoadedModels() {
  const loaders = new WeakMap<ManagedModel, Loader>()
  const loaded = new Map<string, Loaded>()
  let retiredSeconds = 0

  function manage<T extends Network>(options: ModelOptions<T>): ManagedModel<T> {
    const { name, bytes, of, slot, load, unload } = options
    function network() {
      const found = loaded.get(name)
      if (!found) throw new TypeError(`Expected ${name} to be loaded but it is not`)
      return found.network as T
    }
    const model = { name, bytes, of, isLoaded: () => loaded.has(name), network }
    async function open() {
      const own = await load()
      return { model, slot, network: own, unload: async () => unload?.(own) }
    }
    loaders.set(model, { slot, load: open })
    return model
  }

  async function unload({ name }: Resident): Promise<void> {
    const found = loaded.get(name)
    if (!found) return
    loaded.delete(name)
    await found.unload()
    for (const session of found.network.sessions) {
      retiredSeconds += session.busySeconds()
      await session.release()
    }
  }

  return {
    manage,
    async load(model: ManagedModel) {
      loaded.set(model.name, await loaders.get(model)!.load())
    },
    unload,
    slotOf: (model: ManagedModel) => loaders.get(model)!.slot,
    inSlot: (slot: string) =>
      [...loaded.values()].filter((each) => each.slot === slot).map(({ model }) => model),
    busySeconds: () =>
      [...loaded.values()]
        .flatMap(({ network }) => network.sessions)
        .reduce((sum, session) => sum + session.busySeconds(), retiredSeconds),
  }
}

/** `onWarning` gets a sentence when an optional model could not be loaded. */
export function createModelMemory(
  budget: MemoryBudget,
  onWarning: (message: string) => void = () => {},
): ModelMemory {
  const loaded = createLoadedModels()

  async function unload(models: readonly Resident[]): Promise<void> {
    for (const model of models)
      for (const each of [...budget.forget(model.name), model]) await loaded.unload(each)
  }

  /** Unloads what is in the slots that these models take. */
  async function clearSlots(models: readonly ManagedModel[]): Promise<void> {
    for (const model of models) {
      const slot = loaded.slotOf(model)
      if (slot === undefined) continue
      await unload(loaded.inSlot(slot).filter(({ name }) => name !== model.name))
    }
  }

  /** Where a model cannot be loaded, the budget forgets it. */
  async function carryOut(plan: EvictionPlan, models: readonly ManagedModel[]): Promise<void> {
    for (const model of plan.evict) await loaded.unload(model)
    const missing = models.filter(({ name }) => plan.load.some((each) => each.name === name))
    try {
      for (const model of missing) await loaded.load(model)
    } catch (error) {
      for (const model of missing) if (!model.isLoaded()) budget.forget(model.name)
      throw error
    }
  }

  async function acquire(models: readonly ManagedModel[], runBytes = 0) {
    await clearSlots(models)
    const request = { models, runBytes }
    const plan = budget.acquire(request)
    const release = () => budget.release(request)
    try {
      await carryOut(plan, models)
      return release
    } catch (error) {
      release()
      throw error
    }
  }

  async function acquireOptional(model: ManagedModel) {
    const plan = budget.acquireOptional(model)
    if (!plan) return
    try {
      await carryOut(plan, [model])
    } catch (error) {
      onWarning(`${model.name} could not be loaded; predictions are slower without it: ${error}`)
    }
  }

  const unloadSlot = (slot: string) => unload(loaded.inSlot(slot))
  const { manage, busySeconds } = loaded
  return { manage, acquire, acquireOptional, unload, unloadSlot, busySeconds }
}

/** Loads `model` and those alongside it, and prepares it; it is released where that fails. */
export async function lease<T extends Network>(
  memory: ModelMemory,
  model: ManagedModel<T>,
  { alongside = [], runBytes = 0 }: AcquireOptions,
  prepare: (network: T) => Promise<void> = async () => {},
): Promise<Lease<T>> {
  const release = await memory.acquire([...alongside, model], runBytes)
  try {
    const network = model.network()
    await prepare(network)
    return { model: network, release }
  } catch (error) {
    release()
    throw error
  }
}
