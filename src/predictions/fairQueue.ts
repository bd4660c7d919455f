/**
 * Who is next: higher priority first, then the owners take turns, then first come, first served.
 * An owner with a thousand predictions delays another owner's one by a single turn.
 */

import { addLoads, noLoad, type Work } from './cost.js'
import type { Waiting } from './estimate.js'
import { createLine, type Line } from './ownerQueue.js'

export type Place = {
  readonly id: string
  /** Whose turn it is: an API key, or the same for all where there are none. */
  readonly owner: string
  readonly priority: number
  readonly work: Work
}

export type FairQueue = {
  readonly push: (place: Place) => void
  /** Everybody who waits, in the order in which they are to be served if nobody else comes. */
  readonly order: () => Iterable<string>
  /** What `id` waits for, in that order; undefined for one that does not wait. */
  readonly outlook: (id: string) => Waiting | undefined
  /** It is served: out of the queue, and its owner to the end of the round. */
  readonly take: (id: string) => void
  /** It is no longer wanted; true when it was there. */
  readonly remove: (id: string) => boolean
  readonly size: () => number
}

/** The line of each owner; the owner whose turn it is comes first. */
type Level = Map<string, Line>

export function createFairQueue(): FairQueue {
  const levels = new Map<number, Level>()
  const places = new Map<string, Place>()

  function push(place: Place): void {
    places.set(place.id, place)
    const level: Level = levels.get(place.priority) ?? new Map()
    levels.set(place.priority, level)
    const line = level.get(place.owner) ?? createLine()
    level.set(place.owner, line)
    line.push(place.id, place.work)
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
    line.remove(id)
    if (line.size() === 0) level.delete(place.owner)
    if (level.size === 0) levels.delete(place.priority)
    return true
  }

  function* order(): Iterable<string> {
    const sorted = [...levels].sort(([a], [b]) => b - a)
    for (const [, level] of sorted) {
      const lines = [...level.values()]
      // Most servers have one owner.
      yield* lines.length === 1 ? lines[0]!.ids() : interleave(lines.map((line) => line.ids()))
    }
  }

  function outlook(id: string): Waiting | undefined {
    const place = places.get(id)
    if (!place) return undefined
    let waiting: Waiting = { before: -1, load: noLoad }
    for (const [line, count] of countServed(place))
      waiting = {
        before: waiting.before + count,
        load: addLoads(waiting.load, line.loadOf(count)),
      }
    return waiting
  }

  /** How many of each line are served until `id` has been: in each round, one of each owner. */
  function* countServed({ id, owner, priority }: Place): Iterable<readonly [Line, number]> {
    for (const [other, level] of levels)
      if (other > priority) for (const line of level.values()) yield [line, line.size()]
    const level = levels.get(priority)!
    const rounds = level.get(owner)!.indexOf(id)
    let hasCome = false
    for (const [other, line] of level) {
      yield [line, Math.min(line.size(), hasCome ? rounds : rounds + 1)]
      if (other === owner) hasCome = true
    }
  }

  return { push, order, outlook, take, remove, size: () => places.size }
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
