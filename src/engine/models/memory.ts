/**
 * The networks that are loaded on a device. They come when they are needed, as far as a budget has
 * room for them, and go when others need theirs.
 */
import type { Session } from '../runtime/backends/ort/session.js'
import type { Budget, Resident } from './memoryBudget.js'

/** What is loaded as one. */
export type Network = { readonly sessions: readonly Session[] }

export type PartOptions<T extends Network> = Resident & {
  readonly load: () => Promise<T>
  /** What has to be done beside releasing the sessions. */
  readonly unload?: (network: T) => Promise<void>
}

/** A network that may be loaded or not. */
export type Part<T extends Network = Network> = Resident & {
  readonly isLoaded: () => boolean
  /** Of a loaded one; it stays so between `enter` and the call that ends it. */
  readonly network: () => T
}

/** Ends what `enter` began. */
export type Leave = () => void

export type Room = {
  /** Describes a part; nothing is loaded. */
  readonly part: <T extends Network>(options: PartOptions<T>) => Part<T>
  /**
   * Loads what is missing of `parts` and keeps them all until the call that it returns, beside
   * `runBytes` for what is done with them. Throws `not_supported`, with the numbers, where there can
   * be no room, and what a part throws that cannot be loaded.
   */
  readonly enter: (parts: readonly Part[], runBytes?: number) => Promise<Leave>
  /** Loads a part that is useful and not necessary, if that drives out nothing of more use. */
  readonly offer: (part: Part) => Promise<void>
  /** Gives parts back. */
  readonly release: (parts: readonly Part[]) => Promise<void>
  /** Seconds spent inside ONNX Runtime so far, by all that are or were loaded. */
  readonly busySeconds: () => number
}

type Loaded = { readonly network: Network; readonly unload: () => Promise<void> }

export function createRoom(budget: Budget): Room {
  const loaders = new Map<string, () => Promise<Loaded>>()
  const loaded = new Map<string, Loaded>()
  let retiredSeconds = 0

  function part<T extends Network>({ name, bytes, of, load, unload }: PartOptions<T>): Part<T> {
    loaders.set(name, async () => {
      const network = await load()
      return { network, unload: async () => unload?.(network) }
    })
    return {
      ...{ name, bytes, ...(of !== undefined && { of }) },
      isLoaded: () => loaded.has(name),
      network() {
        const found = loaded.get(name)
        if (!found) throw new TypeError(`Expected ${name} to be loaded but it is not`)
        return found.network as T
      },
    }
  }

  async function load(parts: readonly Resident[]): Promise<void> {
    for (const { name } of parts) loaded.set(name, await loaders.get(name)!())
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

  async function unloadAll(parts: readonly Resident[]): Promise<void> {
    for (const each of parts) await unload(each)
  }

  /** Carries a decision out; where a part cannot be loaded the budget is told that it is not there. */
  async function carryOut({ evict, load: missing }: ReturnType<Budget['admit']>): Promise<void> {
    await unloadAll(evict)
    try {
      await load(missing)
    } catch (error) {
      for (const { name } of missing) if (!loaded.has(name)) budget.drop(name)
      throw error
    }
  }

  return {
    part,
    async enter(parts, runBytes = 0) {
      const demand = { parts, runBytes }
      const admission = budget.admit(demand)
      const leave = () => budget.leave(demand)
      try {
        await carryOut(admission)
        return leave
      } catch (error) {
        leave()
        throw error
      }
    },
    async offer(wanted) {
      const admission = budget.offer(wanted)
      // What is not necessary need not succeed.
      if (admission) await carryOut(admission).catch(() => {})
    },
    async release(parts) {
      for (const each of parts) await unloadAll([...budget.drop(each.name), each])
    },
    busySeconds: () =>
      [...loaded.values()]
        .flatMap(({ network }) => network.sessions)
        .reduce((sum, session) => sum + session.busySeconds(), retiredSeconds),
  }
}
