import { expect, test } from 'vitest'
import {
  cancel,
  createPrediction,
  fail,
  isTerminal,
  log,
  start,
  succeed,
} from '../../src/predictions/prediction.js'

const created = createPrediction({ id: 'a', input: {}, createdAt: undefined })

test('a prediction goes from starting over processing to succeeded', () => {
  const started = start(created)
  const done = succeed(log(started, 'Using seed: 1'), ['data:,'])
  expect([created.status, started.status, done.status]).toEqual([
    'starting',
    'processing',
    'succeeded',
  ])
  expect(done).toMatchObject({ logs: 'Using seed: 1\n', output: ['data:,'], id: 'a' })
  expect(done.completedAt!.getTime()).toBeGreaterThanOrEqual(done.startedAt!.getTime())
})

test.each([succeed(created, []), fail(created, 'broken'), cancel(created)])(
  'a prediction that is $status stays so',
  (terminal) => {
    expect(isTerminal(terminal)).toBe(true)
    for (const transition of [start, cancel]) expect(transition(terminal)).toBe(terminal)
    expect(fail(terminal, 'late')).toBe(terminal)
    expect(succeed(terminal, ['data:,'])).toBe(terminal)
    expect(log(terminal, 'late')).toBe(terminal)
  },
)
