/**
 * Files that users name by URL. A user must not be able to make the server talk to its own network,
 * so addresses are checked where they cannot change any more: when the socket is connected to what
 * a name resolved to (no DNS rebinding), and again after every redirect.
 */
import { lookup as resolveName } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { Agent, type Dispatcher } from 'undici'
import { FluxdError, invalidInput } from '../errors.js'
import { isPublicAddress, literalAddress } from './address.js'
import { decodeDataUri } from './dataUri.js'

export type MediaClient = {
  /** The bytes behind an http(s) URL or a data URI. Throws a sentence, or `canceled`. */
  readonly fetch: (uri: string, signal?: AbortSignal) => Promise<Uint8Array>
  readonly close: () => Promise<void>
}

export type MediaLimits = {
  /** Which addresses may be connected to; by default the public ones. */
  readonly allowAddress?: (address: string) => boolean
  readonly maxBytes?: number
  /** For everything together: names, redirects, body. */
  readonly timeoutMs?: number
}

const maxRedirects = 5
// Of connecting, of waiting for the first byte and between two of them, as in Cog.
const stallTimeoutMs = 10_000
const redirectStatuses: readonly number[] = [301, 302, 303, 307, 308]

export function createMediaClient({
  allowAddress = isPublicAddress,
  maxBytes = 100 * 1024 * 1024,
  timeoutMs = 60_000,
}: MediaLimits = {}): MediaClient {
  const agent = new Agent({
    connect: { lookup: createLookup(allowAddress), timeout: stallTimeoutMs },
    headersTimeout: stallTimeoutMs,
    bodyTimeout: stallTimeoutMs,
  })

  async function download(uri: string, signal?: AbortSignal): Promise<Uint8Array> {
    const url = checkUrl(parseUrl(uri), allowAddress)
    const deadline = AbortSignal.timeout(timeoutMs)
    const either = signal ? AbortSignal.any([signal, deadline]) : deadline
    try {
      return await readBody(await follow(url, either), maxBytes)
    } catch (error) {
      if (error instanceof FluxdError) throw error
      if (signal?.aborted) throw new FluxdError('canceled', 'The download was canceled')
      const reason = deadline.aborted ? `it took longer than ${timeoutMs} ms` : describe(error)
      throw new FluxdError('invalid_input', `Could not fetch ${show(url)}: ${reason}`, {
        cause: error,
      })
    }
  }

  /** The reply at the end of the redirects. */
  async function follow(start: URL, signal: AbortSignal) {
    let url = start
    for (let redirects = 0; redirects <= maxRedirects; redirects++) {
      const reply = await get(url, signal)
      if (!redirectStatuses.includes(reply.statusCode)) return expectSuccess(reply, url)
      discard(reply)
      url = checkUrl(nextUrl(url, reply.headers.location), allowAddress)
    }
    throw invalidInput(
      `Expected at most ${maxRedirects} redirects from ${show(start)} but received more`,
    )
  }

  function get(url: URL, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    const headers = { 'user-agent': 'fluxd', accept: '*/*', 'accept-encoding': 'identity' }
    const { origin, pathname, search } = url
    return agent.request({ origin, path: pathname + search, method: 'GET', headers, signal })
  }

  return {
    fetch: async (uri, signal) =>
      /^data:/i.test(uri) ? decodeDataUri(uri, maxBytes) : download(uri, signal),
    close: () => agent.destroy(),
  }
}

function parseUrl(uri: string): URL {
  try {
    return new URL(uri)
  } catch (cause) {
    throw new FluxdError('invalid_input', 'Expected a URL that can be parsed', { cause })
  }
}

/** Throws unless `url` is http(s), carries no password, and its host is a name or an allowed address. */
function checkUrl(url: URL, allowAddress: (address: string) => boolean): URL {
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw invalidInput(`Expected an http or https URL but received ${url.protocol}`)
  if (url.username || url.password)
    throw invalidInput(`Expected a URL without user name and password for ${url.host}`)
  const address = literalAddress(url)
  if (address !== undefined && !allowAddress(address)) throw refused(url.hostname)
  return url
}

const refused = (host: string) =>
  invalidInput(`Expected the URL of a public server but ${host} is not one`)

/** node's lookup, failing when any address of a name is refused. */
const createLookup =
  (allowAddress: (address: string) => boolean): LookupFunction =>
  (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, [])
      if (!addresses.every(({ address }) => allowAddress(address)))
        return callback(refused(hostname), [])
      if (options.all) return callback(null, addresses)
      callback(null, addresses[0]!.address, addresses[0]!.family)
    })
  }

function nextUrl(from: URL, location: string | string[] | undefined): URL {
  if (typeof location === 'string' && URL.canParse(location, from.href))
    return new URL(location, from.href)
  throw invalidInput(`Expected ${show(from)} to redirect to a URL but it names none`)
}

function expectSuccess(reply: Dispatcher.ResponseData, url: URL) {
  if (reply.statusCode === 200) return reply
  discard(reply)
  throw invalidInput(`Expected a file at ${show(url)} but received status ${reply.statusCode}`)
}

/** Refuses what says that it is too long before reading it, and the rest when it is. */
async function readBody(reply: Dispatcher.ResponseData, maxBytes: number) {
  const tooLarge = () => invalidInput(`Expected a file of at most ${maxBytes} bytes`)
  const announced = Number(reply.headers['content-length'] ?? 0)
  if (announced > maxBytes) {
    discard(reply)
    throw tooLarge()
  }
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of reply.body) {
    length += chunk.length
    if (length > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, length)
}

/** Closes the connection without reading what else it would bring. */
const discard = ({ body }: Dispatcher.ResponseData) => body.on('error', () => {}).destroy()

/** Without the query, which may hold a token. */
const show = ({ origin, pathname }: URL) => `${origin}${pathname}`.slice(0, 200)

const describe = (error: unknown) => (error instanceof Error ? error.message : String(error))
