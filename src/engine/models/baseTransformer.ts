/**
 * A transformer with the checkpoint's own weights at one precision, which LoRAs may change in place.
 * A copy of the weights, from which changes come much faster, is kept where there is room for it.
 */
import { type LowRankChanges, unchanged } from '../runtime/backends/backend.js'
import type { Leave, Part, PartOptions, Room } from './memory.js'
import type { Transformer } from './transformer.js'

/** A transformer in memory, until `leave`. */
export type Entered = { readonly transformer: Transformer; readonly leave: Leave }

/** What is to be in memory beside a transformer, and what their work takes. */
export type Company = { readonly others?: readonly Part[]; readonly runBytes?: number }

export type Base = {
  readonly part: Part<Transformer>
  /** Has it ready with these changes and no others. */
  readonly enter: (changes: LowRankChanges, company?: Company) => Promise<Entered>
  /** Uploads changes for a later `enter`, if it is loaded; whoever is in it does not notice. */
  readonly stage: (changes: LowRankChanges) => Promise<void>
}

export function createBase(room: Room, options: PartOptions<Transformer>): Base {
  const part = room.part(options)
  let applied = unchanged

  function describeCopy(): Part {
    const { bytes, keep, drop } = part.network().adaptable!.base
    const load = () => keep().then(() => ({ sessions: [] }))
    return room.part({ name: `base of ${part.name}`, of: part.name, bytes, load, unload: drop })
  }

  return {
    part,
    async enter(changes, company) {
      const wasLoaded = part.isLoaded()
      return enterPart(room, part, company, async ({ adaptable }) => {
        if (!adaptable) return
        // Without changes nobody merges, and when it is loaded there may be room to spare.
        if (!wasLoaded || changes !== applied) await room.offer(describeCopy())
        await adaptable.adapt(changes)
        applied = changes
      })
    },
    async stage(changes) {
      if (part.isLoaded()) await part.network().adaptable?.stage(changes)
    },
  }
}

/** Has a transformer in memory and prepared. */
export async function enterPart(
  room: Room,
  part: Part<Transformer>,
  { others = [], runBytes = 0 }: Company = {},
  prepare: (transformer: Transformer) => Promise<void> = async () => {},
): Promise<Entered> {
  const leave = await room.enter([...others, part], runBytes)
  try {
    const transformer = part.network()
    await prepare(transformer)
    return { transformer, leave }
  } catch (error) {
    leave()
    throw error
  }
}
