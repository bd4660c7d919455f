import { describe, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import { createPace, foreseeWork, lookAhead, type Work } from '../../src/predictions/outlook.js'

const foresee = (input: object) => foreseeWork(FluxInput.parse({ prompt: '', ...input }))

describe('work', () => {
  test.each([
    [{ num_inference_steps: 28 }, 'dev bf16', 28 * 4096],
    [{ megapixels: '0.25', num_outputs: 3, num_inference_steps: 10 }, 'dev bf16', 3 * 10 * 1024],
    [{ model: 'schnell', go_fast: true, num_inference_steps: 4 }, 'schnell fp8', 4 * 4096],
    // Its size is not known yet.
    [{ image: 'http://a.example/', num_inference_steps: 10 }, 'dev bf16', 10 * 4096],
    // This one will fail.
    [{ aspect_ratio: 'custom' }, 'dev bf16', 0],
  ])('of %j is of kind %s and amounts to %d steps times tokens', (input, kind, amount) => {
    expect(foresee(input)).toEqual({ kind, amount })
  })
})

describe('the pace', () => {
  const work = (amount: number, kind: Work['kind'] = 'dev bf16'): Work => ({ kind, amount })

  test('is unknown until work of its kind has been measured', () => {
    const pace = createPace()
    pace.record(work(100), 2)
    expect(pace.estimate(work(50))).toBe(1)
    expect(pace.estimate(work(50, 'dev fp8'))).toBeUndefined()
  })

  test('follows the newest measurements and is not thrown off by one', () => {
    const pace = createPace()
    for (let n = 0; n < 20; n++) pace.record(work(100), 1)
    pace.record(work(100), 11)
    // Three tenths of the way to the outlier.
    expect(pace.estimate(work(100))).toBeCloseTo(4, 6)
    for (let n = 0; n < 20; n++) pace.record(work(100), 2)
    expect(pace.estimate(work(100))).toBeCloseTo(2, 2)
  })

  test('adds up over the queue, less what the running one has behind it', () => {
    const pace = createPace()
    pace.record(work(100), 10)
    const before = [work(100), work(50)]
    expect(lookAhead(pace, before, work(20), 4)).toEqual({ position: 2, etaSeconds: 6 + 5 + 2 })
    // One that takes longer than it should is about to end.
    expect(lookAhead(pace, before, work(20), 99)).toEqual({ position: 2, etaSeconds: 5 + 2 })
    expect(lookAhead(pace, [], work(20), 0.5)).toEqual({ position: 0, etaSeconds: 1.5 })
    expect(lookAhead(pace, [work(1, 'schnell bf16')], work(20), 0)).toEqual({ position: 1 })
  })
})
