/** Whether a draft fits into a device's memory, by the numbers that an engine sends. */
import { expect, test } from 'vitest'
import type { MemoryEstimate } from '../../../src/engine/protocol.js'
import { assertFits } from '../../../src/worker/engine/memoryFit.js'

const vae = { name: 'dev VAE', bytes: 200e6 }

// 1000×1000 pixels run in 1 GB + 2 GB.
const estimate: MemoryEstimate = {
  capacity: 27e9,
  weights: {
    bf16: [{ name: 'dev bf16', bytes: 23.8e9 }, vae],
    fp8: [{ name: 'dev fp8', bytes: 12e9 }, vae],
  },
  checker: undefined,
  baseBytes: 1e9,
  bytesPerPixel: 2000,
}
const checked: MemoryEstimate = { ...estimate, checker: { name: 'safety checker', bytes: 900e3 } }
const square = (side: number) => ({ width: side, height: side })
const draft = { precision: 'bf16', size: square(1000), checkSafety: false } as const

test('what fills the memory to the last byte fits', () => {
  expect(() => assertFits(estimate, draft)).not.toThrow()
})

test('a byte less is too little, and the error lists what needs how much', () => {
  expect(() => assertFits({ ...estimate, capacity: 27e9 - 1 }, draft)).toThrow(
    expect.objectContaining({
      code: 'not_supported',
      message:
        'Expected a prediction that fits into 27.0 GB of memory but it needs 27.0 GB: ' +
        'dev bf16 23.8 GB, dev VAE 200.0 MB, its run 3.0 GB',
    }),
  )
})

test('a larger size needs more for its run, and fp8 less for its weights', () => {
  const large = { ...draft, size: square(1440) }
  expect(() => assertFits(estimate, large)).toThrow(/but it needs 29\.1 GB: .*, its run 5\.1 GB$/)
  expect(() => assertFits(estimate, { ...large, precision: 'fp8' })).not.toThrow()
})

test('an installed safety checker counts only where the output is checked', () => {
  expect(() => assertFits(checked, draft)).not.toThrow()
  expect(() => assertFits(checked, { ...draft, checkSafety: true })).toThrow(
    /dev VAE 200\.0 MB, safety checker 900\.0 kB, its run 3\.0 GB$/,
  )
  expect(() => assertFits(estimate, { ...draft, checkSafety: true })).not.toThrow()
})
