import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Prediction } from '../../src/contract/prediction.js'
import {
  addOutput,
  cancel,
  createPrediction,
  fail,
  isTerminal,
  log,
  measure,
  start,
  succeed,
} from '../../src/predictions/prediction.js'

const created = createPrediction({
  id: 'a',
  surface: 'cog',
  model: 'fluxd/flux',
  version: '0'.repeat(64),
  input: {},
  createdAt: new Date('2026-01-01T00:00:00Z'),
  streamToken: 't',
})
const at = (seconds: number) => new Date(created.createdAt.getTime() + 1000 * seconds)
const file = (index: number) => ({
  index,
  name: `out-${index}.webp`,
  mimeType: 'image/webp',
  size: 1,
  fileId: `f${index}`,
})

test('a prediction goes from starting over processing to succeeded, and is measured', () => {
  const started = start(created, '', at(2))
  const done = succeed(addOutput(log(started, 'Using seed: 1'), file(0)), at(5))
  expect([created, started, done].map(({ status }) => status)).toEqual([
    'starting',
    'processing',
    'succeeded',
  ])
  expect(done).toMatchObject({
    id: 'a',
    logs: 'Using seed: 1\n',
    output: [file(0)],
    startedAt: at(2),
    completedAt: at(5),
    metrics: { queueTime: 2, predictTime: 3, totalTime: 5, imageCount: 1 },
  })
})

test('outputs are listed by index, in whatever order they come', () => {
  const both = addOutput(addOutput(start(created, ''), file(2)), file(0))
  expect(both.output?.map(({ index }) => index)).toEqual([0, 2])
})

test('a second run forgets what the first one left behind', () => {
  const first = addOutput(log(start(created, 'Downloading weights\n'), 'Using seed: 1'), file(0))
  const second = start(first, 'Downloading weights\n')
  expect(second).toMatchObject({ logs: 'Downloading weights\n', output: undefined })
})

test.each([
  ['failed', (prediction: Prediction) => fail(prediction, 'broken', at(3))],
  ['canceled', (prediction: Prediction) => cancel(prediction, at(3))],
])('a prediction that is %s has no output', (status, end) => {
  const ended = end(addOutput(start(created, '', at(1)), file(0)))
  expect(ended).toMatchObject({ status, output: undefined, metrics: { predictTime: 2 } })
  expect(ended.metrics).not.toHaveProperty('imageCount')
})

test('one that never ran took no time', () => {
  expect(cancel(created, at(3)).metrics).toEqual({ predictTime: 0, totalTime: 3 })
})

const transitions: Readonly<Record<string, (prediction: Prediction) => Prediction>> = {
  start: (prediction) => start(prediction, ''),
  log: (prediction) => log(prediction, 'line'),
  addOutput: (prediction) => addOutput(prediction, file(0)),
  measure: (prediction) => measure(prediction, { loraSwitchMs: 1 }),
  succeed: (prediction) => succeed(prediction),
  fail: (prediction) => fail(prediction, 'late'),
  cancel: (prediction) => cancel(prediction),
}

test('whatever happens in whatever order, a terminal state is final and states never go back', () => {
  const order = { starting: 0, processing: 1, succeeded: 2, failed: 2, canceled: 2 }
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...Object.keys(transitions))), (names) => {
      let prediction = created
      for (const name of names) {
        const next = transitions[name]!(prediction)
        if (isTerminal(prediction)) expect(next).toBe(prediction)
        expect(order[next.status]).toBeGreaterThanOrEqual(order[prediction.status])
        prediction = next
      }
    }),
  )
})
