/** How fast an address may try API keys that are not valid. */
import { describe, expect, test } from 'vitest'
import { createFailedKeys } from '../../../src/server/auth/failedKeys.js'

/** Attempts at the times of `clock.ms`; `tryMany` returns how many of `count` wrong keys are tried. */
function setUp() {
  const clock = { ms: 1_000_000 }
  const failedKeys = createFailedKeys(() => clock.ms)
  let next = 0
  const attempt = (address: string, key = `Bearer wrong-${next++}`) =>
    failedKeys.begin(address, key)
  const tryMany = (address: string, count: number) =>
    Array.from({ length: count }).filter(() => {
      try {
        attempt(address)
        return true
      } catch {
        return false
      }
    }).length
  return { clock, attempt, tryMany }
}

describe('wrong keys', () => {
  test('of one address are twenty at once and one a second after that', () => {
    const { clock, tryMany } = setUp()
    expect(tryMany('203.0.113.7', 1000)).toBe(20)
    clock.ms += 3000
    expect(tryMany('203.0.113.7', 1000)).toBe(3)
    clock.ms += 3_600_000
    expect(tryMany('203.0.113.7', 1000)).toBe(20)
  })

  test('that are too many get a 429 that says when to try again', () => {
    const { attempt, tryMany } = setUp()
    tryMany('203.0.113.7', 20)
    expect(() => attempt('203.0.113.7')).toThrow(
      expect.objectContaining({ code: 'throttled', retryAfterSeconds: 1 }),
    )
  })

  test('of one address are not those of another', () => {
    const { tryMany } = setUp()
    tryMany('203.0.113.7', 1000)
    expect(tryMany('203.0.113.8', 1000)).toBe(20)
  })

  test.each([
    ['2001:db8:1:2::1', '2001:db8:1:2:ffff::9', 0],
    ['2001:db8:1:2::1', '2001:db8:1:3::1', 20],
    ['203.0.113.7', '::ffff:203.0.113.7', 0],
  ])('of %s leave those of %s with %i attempts', (first, second, attempts) => {
    const { tryMany } = setUp()
    tryMany(first, 1000)
    expect(tryMany(second, 1000)).toBe(attempts)
  })
})

describe('a valid key', () => {
  test('takes no attempt away', () => {
    const { attempt, tryMany } = setUp()
    for (let i = 0; i < 100; i++) attempt('203.0.113.7', `Bearer right-${i}`)()
    expect(tryMany('203.0.113.7', 1000)).toBe(20)
  })

  test('that was used before is not held up by wrong ones of its address', () => {
    const { attempt, tryMany } = setUp()
    attempt('203.0.113.7', 'Bearer right')()
    tryMany('203.0.113.7', 1000)
    expect(() => attempt('203.0.113.7', 'Bearer right')()).not.toThrow()
    expect(() => attempt('203.0.113.7', 'Bearer other')).toThrow(/too many/)
  })
})
