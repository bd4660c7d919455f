import { expect, test } from 'vitest'
import { resolveSeed } from '../../src/plan/seed.js'

test.each([0, 7, Number.MAX_SAFE_INTEGER])('seed %i is a seed', (seed) => {
  expect(resolveSeed({ seed })).toBe(seed)
})

test.each([undefined, -1, -4711])('for seed %s one of 16 bits is drawn', (seed) => {
  const drawn = Array.from({ length: 50 }, () => resolveSeed({ seed }))
  for (const each of drawn) expect(each >= 0 && each < 0x10000 && Number.isInteger(each)).toBe(true)
  expect(new Set(drawn).size).toBeGreaterThan(1)
})
