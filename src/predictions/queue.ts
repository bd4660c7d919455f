/**
 * Who is next: higher priority first, then the owners take turns, then first come, first served.
 * An owner with a thousand predictions delays another owner's one by a single turn.
 */
export type Place = {
  readonly id: string
  /** Whose turn it is: an API key, or the same for all where there are none. */
  readonly owner: string
  readonly priority: number
}

export type FairQueue = {
  readonly push: (place: Place) => void
  /** Everybody who waits, in the order in which they are to be served if nobody else comes. */
  readonly order: () => Iterable<string>
  /** It is served: out of the queue, and its owner to the end of the round. */
  readonly take: (id: string) => void
  /** It is no longer wanted; true when it was there. */
  readonly remove: (id: string) => boolean
  readonly has: (id: string) => boolean
  readonly size: () => number
}

/** The ids of each owner, in order; the owner whose turn it is comes first. */
type Level = Map<string, Set<string>>

export function createFairQueue(): FairQueue {
  const levels = new Map<number, Level>()
  const places = new Map<string, Place>()

  function push(place: Place): void {
    places.set(place.id, place)
    const level: Level = levels.get(place.priority) ?? new Map()
    levels.set(place.priority, level)
    const line = level.get(place.owner) ?? new Set()
    level.set(place.owner, line.add(place.id))
  }

  function take(id: string): void {
    const place = places.get(id)
    if (!remove(id) || !place) return
    const level = levels.get(place.priority)
    const line = level?.get(place.owner)
    if (!level || !line) return
    level.delete(place.owner)
    level.set(place.owner, line)
  }

  function remove(id: string): boolean {
    const place = places.get(id)
    if (!place) return false
    places.delete(id)
    const level = levels.get(place.priority)!
    const line = level.get(place.owner)!
    line.delete(id)
    if (line.size === 0) level.delete(place.owner)
    if (level.size === 0) levels.delete(place.priority)
    return true
  }

  function* order(): Iterable<string> {
    const sorted = [...levels].sort(([a], [b]) => b - a)
    for (const [, level] of sorted) {
      const lines = [...level.values()]
      // Most servers have one owner.
      yield* lines.length === 1 ? lines[0]! : interleave(lines)
    }
  }

  return { push, order, take, remove, has: (id) => places.has(id), size: () => places.size }
}

/** The first of each line, then the second of each, … */
function* interleave(lines: readonly Iterable<string>[]): Iterable<string> {
  let round = lines.map((line) => line[Symbol.iterator]())
  while (round.length > 0) {
    const served = round.map((line) => ({ line, next: line.next() }))
    round = []
    for (const { line, next } of served) {
      if (next.done) continue
      yield next.value
      round.push(line)
    }
  }
}
