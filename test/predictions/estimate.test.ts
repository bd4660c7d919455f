import { expect, test } from 'vitest'
import { addCost, type Cost, noCost } from '../../src/predictions/cost.js'
import { estimateQueue } from '../../src/predictions/estimate.js'
import { createThroughput } from '../../src/predictions/throughput.js'

const work = (tokens: number, kind: Cost['kind'] = 'dev bf16'): Cost => ({
  ...{ kind, tokens },
  stepTokens: tokens,
})
const load = (...works: Cost[]) => works.reduce(addCost, noCost)

/** A tenth of a second for each token. */
function createMeasuredPace() {
  const throughput = createThroughput()
  throughput.record(work(100), { steps: 6, rest: 4 })
  return throughput
}

test('a waiting one waits for the rest of the running one and for all up to itself', () => {
  const throughput = createMeasuredPace()
  const waiting = { before: 1, cost: load(work(50), work(20)) }
  const look = (seconds: number) =>
    estimateQueue(throughput, [{ cost: work(100), seconds }], waiting)
  expect(look(4)).toEqual({ position: 2, etaSeconds: 6 + 5 + 2 })
  // One that takes longer than it should is about to end.
  expect(look(99)).toEqual({ position: 2, etaSeconds: 5 + 2 })
  expect(estimateQueue(throughput, [], waiting)).toEqual({ position: 1, etaSeconds: 7 })
})

test('the running one waits for its own rest', () => {
  const running = [{ cost: work(20), seconds: 0.5 }]
  expect(estimateQueue(createMeasuredPace(), running, undefined)).toEqual({
    position: 0,
    etaSeconds: 1.5,
  })
})

test('without a measurement of each kind that comes before there is a place but no time', () => {
  const throughput = createMeasuredPace()
  const unmeasured = work(1, 'schnell bf16')
  const running = { cost: work(1), seconds: 0 }
  const waiting = { before: 1, cost: load(unmeasured, work(20)) }
  expect(estimateQueue(throughput, [running], waiting)).toEqual({ position: 2 })
  expect(estimateQueue(throughput, [{ ...running, cost: unmeasured }], undefined)).toEqual({
    position: 0,
  })
})

test('several executors share what comes before', () => {
  const throughput = createMeasuredPace()
  const running = [work(100), work(100)].map((cost) => ({ cost, seconds: 4 }))
  const waiting = { before: 1, cost: load(work(50), work(20)) }
  expect(estimateQueue(throughput, running, waiting, 2)).toEqual({
    position: 3,
    etaSeconds: (6 + 6 + 5 + 2) / 2,
  })
})
