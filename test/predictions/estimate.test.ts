import { expect, test } from 'vitest'
import { addWork, noLoad, type Work } from '../../src/predictions/cost.js'
import { lookAhead } from '../../src/predictions/estimate.js'
import { createPace } from '../../src/predictions/throughput.js'

const work = (tokens: number, kind: Work['kind'] = 'dev bf16'): Work => ({
  ...{ kind, tokens },
  stepTokens: tokens,
})
const load = (...works: Work[]) => works.reduce(addWork, noLoad)

/** A tenth of a second for each token. */
function createMeasuredPace() {
  const pace = createPace()
  pace.record(work(100), { steps: 6, rest: 4 })
  return pace
}

test('who waits is told of the running one’s rest and of all up to itself', () => {
  const pace = createMeasuredPace()
  const waiting = { before: 1, load: load(work(50), work(20)) }
  const look = (seconds: number) => lookAhead(pace, { work: work(100), seconds }, waiting)
  expect(look(4)).toEqual({ position: 2, etaSeconds: 6 + 5 + 2 })
  // One that takes longer than it should is about to end.
  expect(look(99)).toEqual({ position: 2, etaSeconds: 5 + 2 })
  expect(lookAhead(pace, undefined, waiting)).toEqual({ position: 1, etaSeconds: 7 })
})

test('the running one is told of its own rest', () => {
  const running = { work: work(20), seconds: 0.5 }
  expect(lookAhead(createMeasuredPace(), running, undefined)).toEqual({
    position: 0,
    etaSeconds: 1.5,
  })
})

test('without a measurement of each kind that comes before there is a place but no time', () => {
  const pace = createMeasuredPace()
  const unmeasured = work(1, 'schnell bf16')
  const running = { work: work(1), seconds: 0 }
  const waiting = { before: 1, load: load(unmeasured, work(20)) }
  expect(lookAhead(pace, running, waiting)).toEqual({ position: 2 })
  expect(lookAhead(pace, { ...running, work: unmeasured }, undefined)).toEqual({ position: 0 })
})
