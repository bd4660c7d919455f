import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { GenerationEvent } from '../../../src/engine/protocol.js'
import { createHangWatch, type ExpectedSeconds } from '../../../src/worker/engine/hangWatch.js'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const size = { width: 64, height: 64 }
const planned: GenerationEvent = { kind: 'planned', id: '1', size }
const step = (number: number): GenerationEvent => ({
  kind: 'progress',
  id: '1',
  image: 0,
  step: number,
  steps: 4,
})

function start(expected?: ExpectedSeconds) {
  const onHang = vi.fn()
  const watch = createHangWatch(onHang, expected)
  /** Whether it hangs after so many seconds without an event, and not a second before. */
  const hangsAfter = (seconds: number) => {
    vi.advanceTimersByTime(1000 * seconds - 1)
    const isEarly = onHang.mock.calls.length > 0
    vi.advanceTimersByTime(1)
    return !isEarly && onHang.mock.calls.length === 1
  }
  return { watch, onHang, hangsAfter }
}

test('an engine that does not take up a command within 30 seconds hangs', () => {
  const { watch, onHang, hangsAfter } = start()
  watch.sent()
  expect(hangsAfter(30)).toBe(true)
  expect(onHang).toHaveBeenCalledWith('has reported nothing for 30 seconds')
})

describe('between events the limit is', () => {
  test('half an hour while weights are loaded, ten minutes for what was never measured', () => {
    const loading = start()
    loading.watch.heard(planned, false)
    expect(loading.hangsAfter(1800)).toBe(true)
    const loaded = start()
    loaded.watch.heard(planned, true)
    expect(loaded.hangsAfter(600)).toBe(true)
  })

  test('ten times a step as it was measured, and never less than 30 seconds', () => {
    const slow = start({ step: 5, rest: 1 })
    slow.watch.heard(step(1), true)
    expect(slow.hangsAfter(50)).toBe(true)
    const quick = start({ step: 0.1, rest: 0.1 })
    quick.watch.heard(step(1), true)
    expect(quick.hangsAfter(30)).toBe(true)
  })

  test('ten times the longest step of this run, where that is longer', () => {
    const { watch, hangsAfter } = start({ step: 1, rest: 1 })
    watch.heard(step(1), true)
    vi.advanceTimersByTime(20_000)
    watch.heard(step(2), true)
    expect(hangsAfter(200)).toBe(true)
  })

  test('ten times what comes after the last step', () => {
    const { watch, hangsAfter } = start({ step: 1, rest: 6 })
    watch.heard(step(4), true)
    expect(hangsAfter(60)).toBe(true)
  })
})

test('after a cancel an engine has the time of a step to end its run', () => {
  const { watch, hangsAfter } = start({ step: 4, rest: 1 })
  watch.heard(step(1), true)
  watch.canceled()
  expect(hangsAfter(40)).toBe(true)
})

test('nothing hangs after the end', () => {
  const { watch, onHang } = start()
  watch.sent()
  watch.heard({ kind: 'failed', id: '1', error: { code: 'canceled', message: '' } }, true)
  vi.advanceTimersByTime(1e9)
  watch.sent()
  watch.stop()
  vi.advanceTimersByTime(1e9)
  expect(onHang).not.toHaveBeenCalled()
})
