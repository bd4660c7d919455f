import { expect, test } from 'vitest'
import { addCost, type Cost, noCost } from '../../src/predictions/cost.js'
import { createThroughput } from '../../src/predictions/throughput.js'

const work = (steps: number, tokens = 100, kind: Cost['kind'] = 'dev bf16'): Cost => ({
  ...{ kind, tokens },
  stepTokens: steps * tokens,
})
const load = (...works: Cost[]) => works.reduce(addCost, noCost)

test('nothing is estimated until work of its kind has been measured', () => {
  const throughput = createThroughput()
  throughput.record(work(1), { steps: 2, rest: 0 })
  expect(throughput.estimate(load(work(2)))).toBe(4)
  expect(throughput.estimate(load(work(2), work(1, 100, 'dev fp8')))).toBeUndefined()
  // This one will fail, and takes no time.
  expect(throughput.estimate(load(work(0, 0, 'schnell bf16')))).toBe(0)
})

test('what a picture takes besides its steps is not multiplied by more steps', () => {
  const throughput = createThroughput()
  // A first, short prediction: 0.1 s in its one step, 0.9 s for the prompt and the picture.
  throughput.record(work(1), { steps: 0.1, rest: 0.9 })
  expect(throughput.estimate(load(work(28)))).toBeCloseTo(28 * 0.1 + 0.9, 9)
  // Four times the pixels, and two of them: every part grows with them.
  expect(throughput.estimate(load(work(28, 400), work(28, 400)))).toBeCloseTo(8 * (2.8 + 0.9), 9)
})

test('the estimate follows the newest measurements and is not thrown off by one', () => {
  const throughput = createThroughput()
  for (let n = 0; n < 20; n++) throughput.record(work(1), { steps: 1, rest: 1 })
  throughput.record(work(1), { steps: 11, rest: 1 })
  // Three tenths of the way to the outlier.
  expect(throughput.estimate(load(work(1)))).toBeCloseTo(1 + 4, 6)
  for (let n = 0; n < 20; n++) throughput.record(work(1), { steps: 2, rest: 2 })
  expect(throughput.estimate(load(work(1)))).toBeCloseTo(4, 2)
})
