/** Downloads files that users name by URL into memory, within limits of size and time. */
import { FluxdError, invalidInput } from '../errors.js'
import { decodeDataUri } from './dataUri.js'
import { createGuardedClient, discard, parseUrl, type Reply } from './guardedClient.js'
import type { ProxySettings } from './proxy.js'
import type { AddressRule } from './publicAddress.js'
import { redact } from './redact.js'
import { readBody } from './replyBody.js'

export type MediaClient = {
  /** The bytes behind an http(s) URL or a data URI. Throws a sentence, or `canceled`. */
  readonly fetch: (uri: string, signal?: AbortSignal) => Promise<Uint8Array>
  readonly close: () => Promise<void>
}

export type MediaLimits = {
  /** The addresses that may be connected to; by default the public ones. */
  readonly allowAddress?: AddressRule
  readonly maxBytes?: number
  readonly proxy?: ProxySettings | undefined
  /** The limit for name resolution, redirects and body together. */
  readonly timeoutMs?: number
}

export function createMediaClient({
  allowAddress,
  maxBytes = 100 * 1024 * 1024,
  timeoutMs = 60_000,
  proxy,
}: MediaLimits = {}): MediaClient {
  const client = createGuardedClient({ ...(allowAddress && { allowAddress }), proxy })

  async function download(uri: string, signal?: AbortSignal): Promise<Uint8Array> {
    const url = parseUrl(uri)
    const deadline = AbortSignal.timeout(timeoutMs)
    const either = signal ? AbortSignal.any([signal, deadline]) : deadline
    try {
      const reply = await client.get(uri, { signal: either })
      return await readBody(expectSuccess(reply), maxBytes)
    } catch (error) {
      if (error instanceof FluxdError) throw error
      if (signal?.aborted) throw new FluxdError('canceled', 'The download was canceled')
      const reason = deadline.aborted ? `it took longer than ${timeoutMs} ms` : describe(error)
      throw new FluxdError('invalid_input', `Could not fetch ${redact(url.href)}: ${reason}`, {
        cause: error,
      })
    }
  }

  return {
    fetch: async (uri, signal) =>
      /^data:/i.test(uri) ? decodeDataUri(uri, maxBytes) : download(uri, signal),
    close: client.close,
  }
}

function expectSuccess(reply: Reply): Reply {
  if (reply.statusCode === 200) return reply
  discard(reply)
  throw invalidInput(
    `Expected a file at ${redact(reply.url.href)} but received status ${reply.statusCode}`,
  )
}

const describe = (error: unknown) => (error instanceof Error ? error.message : String(error))
