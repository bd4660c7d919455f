/**
 * Waits of tests are as long as a slow machine needs. What is waited for is awaited in vain only when
 * a test fails, so no limit below a minute decides anything but how the verdict depends on load.
 */
import { vi } from 'vitest'

const leastMs = 60_000
const waitFor = vi.waitFor

vi.waitFor = (callback, options) => {
  const given = typeof options === 'number' ? { timeout: options } : options
  return waitFor(callback, { ...given, timeout: Math.max(given?.timeout ?? 0, leastMs) })
}
