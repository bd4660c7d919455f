/**
 * Those who wait behind each other, and what the first of them come to: it is asked with every reply, of
 * lines of thousands. Who joins is added to the sums; who leaves makes them be added up anew when they
 * are asked for next.
 */
import { addWork, type Load, noLoad, type Work } from './cost.js'

export type Line = {
  readonly push: (id: string, work: Work) => void
  readonly remove: (id: string) => void
  /** In order. */
  readonly ids: () => Iterable<string>
  readonly size: () => number
  /** How many come before `id`, who is in the line. */
  readonly indexOf: (id: string) => number
  /** What the first `count` come to. */
  readonly loadOf: (count: number) => Load
}

export function createLine(): Line {
  const works = new Map<string, Work>()
  const indexes = new Map<string, number>()
  /** One more than there are indexes: what the first 0, 1, 2, … come to. */
  let loads: Load[] = [noLoad]
  let isStale = false

  function count(id: string, work: Work): void {
    indexes.set(id, indexes.size)
    loads.push(addWork(loads.at(-1)!, work))
  }

  function refresh(): void {
    if (!isStale) return
    isStale = false
    indexes.clear()
    loads = [noLoad]
    for (const [id, work] of works) count(id, work)
  }

  return {
    push(id, work) {
      works.set(id, work)
      if (!isStale) count(id, work)
    },
    remove(id) {
      if (works.delete(id)) isStale = true
    },
    ids: () => works.keys(),
    size: () => works.size,
    indexOf(id) {
      refresh()
      return indexes.get(id)!
    },
    loadOf(number) {
      refresh()
      return loads[number]!
    },
  }
}
