import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addWork, noLoad, type Work } from '../../src/predictions/cost.js'
import { createFairQueue, type FairQueue } from '../../src/predictions/fairQueue.js'

const work: Work = { kind: 'dev bf16', tokens: 1, stepTokens: 28 }

const fill = (ids: readonly string[], priority = 0) => {
  const queue = createFairQueue()
  for (const id of ids) queue.push({ id, owner: id[0]!, priority, work })
  return queue
}

function drain(queue: FairQueue): string[] {
  const served: string[] = []
  for (let [id] = queue.order(); id !== undefined; [id] = queue.order()) {
    queue.take(id)
    served.push(id)
  }
  return served
}

test('one owner is served first come, first served', () => {
  expect(drain(fill(['a1', 'a2', 'a3']))).toEqual(['a1', 'a2', 'a3'])
})

test('owners take turns, however many predictions one of them has', () => {
  expect(drain(fill(['a1', 'a2', 'a3', 'b1', 'b2', 'c1']))).toEqual([
    'a1',
    'b1',
    'c1',
    'a2',
    'b2',
    'a3',
  ])
})

test('who was served goes to the end of the round', () => {
  const queue = fill(['a1', 'a2', 'b1'])
  queue.take('a1')
  queue.push({ id: 'c1', owner: 'c', priority: 0, work })
  expect([...queue.order()]).toEqual(['b1', 'a2', 'c1'])
})

test('a higher priority goes first', () => {
  const queue = fill(['a1', 'a2'])
  queue.push({ id: 'b1', owner: 'b', priority: 1, work })
  queue.push({ id: 'c1', owner: 'c', priority: -1, work })
  expect(drain(queue)).toEqual(['b1', 'a1', 'a2', 'c1'])
})

test('what is removed is not served, and is removed once', () => {
  const queue = fill(['a1', 'a2'])
  expect([queue.remove('a1'), queue.remove('a1'), queue.remove('never')]).toEqual([
    true,
    false,
    false,
  ])
  expect(drain(queue)).toEqual(['a2'])
  expect(queue.size()).toBe(0)
})

const arrivals = fc.array(
  fc.record({
    owner: fc.constantFrom('a', 'b', 'c', 'd'),
    priority: fc.integer({ max: 2, min: 0 }),
  }),
  { maxLength: 40 },
)
const number = (places: { owner: string; priority: number }[]) =>
  places.map((place, index) => ({ ...place, id: `${place.owner}${index}`, work: workOf(index) }))

/** Of two kinds, and of another amount each. */
const workOf = (index: number): Work => ({
  kind: index % 3 === 0 ? 'dev fp8' : 'dev bf16',
  tokens: 1000 + index * index,
  stepTokens: 28 * (1000 + index * index),
})

test('everybody is served once, in the order that was foretold', () => {
  fc.assert(
    fc.property(arrivals, (places) => {
      const queue = createFairQueue()
      for (const place of number(places)) queue.push(place)
      const foretold = [...queue.order()]
      expect(drain(queue)).toEqual(foretold)
      expect(new Set(foretold).size).toBe(places.length)
    }),
  )
})

test('a waiting prediction is overtaken by each other owner at most once for each of its own turns', () => {
  fc.assert(
    fc.property(arrivals, (places) => {
      const equal = number(places).map((place) => ({ ...place, priority: 0 }))
      const queue = createFairQueue()
      for (const place of equal) queue.push(place)
      const served = drain(queue)
      for (const { id, owner } of equal) {
        const before = served.slice(0, served.indexOf(id))
        const own = before.filter((other) => other[0] === owner).length
        for (const other of ['a', 'b', 'c', 'd'])
          expect(before.filter((each) => each[0] === other).length).toBeLessThanOrEqual(own + 1)
      }
    }),
  )
})

test('within an owner and a priority the order of arrival is kept, also under removals', () => {
  fc.assert(
    fc.property(arrivals, fc.array(fc.nat(39)), (places, removals) => {
      const all = number(places)
      const queue = createFairQueue()
      for (const place of all) queue.push(place)
      const removed = new Set(removals.flatMap((index) => all[index]?.id ?? []))
      for (const id of removed) queue.remove(id)
      const served = drain(queue)
      for (const { owner, priority } of all) {
        const line = all.filter((place) => place.owner === owner && place.priority === priority)
        const expected = line.map(({ id }) => id).filter((id) => !removed.has(id))
        expect(served.filter((id) => expected.includes(id))).toEqual(expected)
      }
      expect(served).toHaveLength(all.length - removed.size)
    }),
  )
})

test('what is foretold of somebody’s wait is the order, also after some were served or removed', () => {
  fc.assert(
    fc.property(arrivals, arrivals, fc.array(fc.nat(39)), (first, second, leaving) => {
      const all = number([...first, ...second])
      const queue = createFairQueue()
      const check = () => {
        let load = noLoad
        for (const [before, id] of [...queue.order()].entries()) {
          load = addWork(load, all.find((place) => place.id === id)!.work)
          expect(queue.outlook(id)).toEqual({ before, load })
        }
      }
      for (const place of all.slice(0, first.length)) queue.push(place)
      check()
      for (const [turn, index] of leaving.entries()) {
        const id = [...queue.order()][index]
        if (id === undefined) continue
        if (turn % 2 === 0) queue.take(id)
        else queue.remove(id)
        expect(queue.outlook(id)).toBeUndefined()
      }
      for (const place of all.slice(first.length)) queue.push(place)
      check()
    }),
  )
})
