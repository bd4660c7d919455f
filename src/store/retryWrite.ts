/**
 * Writes that must not be lost are tried again: the disk may have space, or the store be free,
 * later.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode } from '../errors.js'

const pauseMs = 1000

/**
 * The result of `write`, tried again while it fails and `signal` has not aborted. `onError`
 * receives the first failure that is not a full disk.
 */
export async function retryWrite<T>(
  write: () => Promise<T>,
  signal: AbortSignal,
  onError: (error: unknown) => void,
): Promise<T> {
  let isReported = false
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (signal.aborted) throw error
      if (!isReported && !hasCode(error, 'storage_full')) onError(error)
      isReported ||= !hasCode(error, 'storage_full')
      await pause(signal)
    }
  }
}

/** As `retryWrite`, for a full disk only: another failure is thrown. */
export async function retryWhileDiskFull<T>(
  write: () => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (signal.aborted || !hasCode(error, 'storage_full')) throw error
      await pause(signal)
    }
  }
}

/** An abort ends the pause; the next try decides. */
const pause = (signal: AbortSignal) => delay(pauseMs, undefined, { signal }).catch(() => {})
