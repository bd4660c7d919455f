/**
 * The host's ledger of LoRA files that were read: the two sets used or prefetched last, by the key
 * of their files, whatever their scales. The set in use is never evicted for a prefetched one.
 */
import type { LoraFile, Precision } from '../../plan/plan.js'
import { emptyLoraSet, filesKey, type LoraSet, loraSetKey, type ParsedLoras } from './loraSet.js'

export type LoraSetCache = {
  /** The set of these LoRAs, which is in use from now on; LoRAs of scale 0 count as absent. */
  readonly load: ReadLoraSet
  /** The same for later: the set in use stays. */
  readonly prefetch: ReadLoraSet
  readonly release: () => Promise<void>
}

type ReadLoraSet = (precision: Precision, loras: readonly LoraFile[]) => Promise<LoraSet>

const maxSets = 2

/** An empty cache; `parse` reads files. Calls must not overlap. */
export function createLoraSetCache(
  parse: (precision: Precision, files: readonly LoraFile[]) => Promise<ParsedLoras>,
): LoraSetCache {
  // A Map keeps its order: least recently used first.
  const entries = new Map<string, ParsedLoras>()
  let inUse: string | undefined

  async function evict(key: string) {
    const parsed = entries.get(key)
    entries.delete(key)
    await parsed?.release()
  }

  /** What is evicted is released before the next files are read: they may be as large. */
  async function read(key: string, precision: Precision, files: readonly LoraFile[]) {
    const present = entries.get(key)
    if (present) {
      entries.delete(key)
      entries.set(key, present)
      return present
    }
    const idle = [...entries.keys()].filter((each) => each !== inUse)
    for (const each of idle.slice(0, Math.max(entries.size + 1 - maxSets, 0))) await evict(each)
    const parsed = await parse(precision, files)
    entries.set(key, parsed)
    return parsed
  }

  async function get(precision: Precision, loras: readonly LoraFile[], isPrefetch: boolean) {
    const own = loras.filter(({ scale }) => scale !== 0)
    if (own.length === 0) return emptyLoraSet
    const files = filesKey(own)
    const scales = own.map(({ scale }) => scale)
    const entry = `${precision}\n${files}`
    if (!isPrefetch) inUse = entry
    const parsed = await read(entry, precision, own)
    return { key: loraSetKey(files, scales), files, scales, parsed }
  }

  return {
    load: (precision, loras) => get(precision, loras, false),
    prefetch: (precision, loras) => get(precision, loras, true),
    async release() {
      inUse = undefined
      for (const key of [...entries.keys()]) await evict(key)
    },
  }
}
