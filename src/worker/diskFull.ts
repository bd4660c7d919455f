/** A full disk loses nothing that was promised. */
import { setTimeout as delay } from 'node:timers/promises'
import { FluxdError } from '../errors.js'

const pollMs = 1000

/** The result of `write`, tried again while the disk is full and `signal` has not aborted. */
export async function retryWhileDiskFull<T>(
  write: () => T | Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (!(error instanceof FluxdError) || error.code !== 'storage_full') throw error
      if (signal.aborted) throw error
      // An abort ends the pause; the next try tells how it went.
      await delay(pollMs, undefined, { signal }).catch(() => {})
    }
  }
}
