/**
 * Slows down guessing of API keys: an address may try `burst` keys that are not valid, then one a
 * second. A key that was valid before is never held up, so that a client is not locked out by
 * another one behind the same proxy. IPv6 addresses count by their /64 network.
 */
import { createHash } from 'node:crypto'
import ipaddr from 'ipaddr.js'
import { FluxdError } from '../../errors.js'

export type FailedKeys = {
  /**
   * Counts an attempt with the key in an Authorization header as failed, until the function that
   * comes back is called. Throws `throttled` where the address has failed too often.
   */
  readonly begin: (address: string, authorization: string | undefined) => () => void
}

const burst = 20
const refillMs = 1000
// The oldest are forgotten; each takes some 100 bytes.
const [mostAddresses, mostKeys] = [10_000, 1000]

/** `nowMs` is a monotonic clock. */
export function createFailedKeys(nowMs = () => performance.now()): FailedKeys {
  /** By address, the time at which all of its attempts are available again. */
  const fullAtMs = new Map<string, number>()
  const validKeys = new Map<string, true>()

  return {
    begin(address, authorization) {
      if (authorization === undefined) return () => {}
      const key = createHash('sha256').update(authorization).digest('base64')
      if (validKeys.has(key)) return () => {}
      const network = networkOf(address)
      const now = nowMs()
      const fullAt = Math.max(now, fullAtMs.get(network) ?? 0) + refillMs
      const waitMs = fullAt - now - burst * refillMs
      if (waitMs > 0) throw throttled(Math.ceil(waitMs / 1000))
      remember(fullAtMs, network, fullAt, mostAddresses)
      return () => {
        fullAtMs.set(network, (fullAtMs.get(network) ?? 0) - refillMs)
        remember(validKeys, key, true, mostKeys)
      }
    },
  }
}

/** Sets an entry as the newest, and removes the oldest of more than `most`. */
function remember<T>(entries: Map<string, T>, key: string, value: T, most: number): void {
  entries.delete(key)
  entries.set(key, value)
  const [oldest] = entries.keys()
  if (entries.size > most && oldest !== undefined) entries.delete(oldest)
}

/** A client has a whole /64 of IPv6. */
function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return address
  const parsed = ipaddr.process(address)
  return parsed instanceof ipaddr.IPv6 ? parsed.parts.slice(0, 4).join(':') : parsed.toString()
}

const throttled = (seconds: number) =>
  new FluxdError(
    'throttled',
    `Expected a valid key but received too many that are not; try again in ${seconds} ` +
      `second${seconds === 1 ? '' : 's'}`,
    { retryAfterSeconds: seconds },
  )
