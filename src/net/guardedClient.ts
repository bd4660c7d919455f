/**
 * HTTP to servers that users name, guarded against SSRF: a user must not reach the networks of this
 * machine through it. Addresses are checked in the socket's own name lookup, where they cannot
 * change any more (no DNS rebinding), and again after every redirect.
 */
import { type LookupAddress, lookup as resolveName } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { Agent, buildConnector, type Dispatcher } from 'undici'
import { codeOf, FluxdError, invalidInput } from '../errors.js'
import { createProxyConnector, type ProxySettings } from './proxy.js'
import { type AddressRule, isPublicAddress, literalAddress } from './publicAddress.js'
import { redact } from './redact.js'

/** `url` is the last one of the redirects. The body must be read or discarded. */
export type Reply = Dispatcher.ResponseData & { readonly url: URL }

export type GuardedRequest = {
  readonly headers?: Readonly<Record<string, string>>
  /** A token for the origin of the first URL; other origins that it redirects to do not get it. */
  readonly bearer?: string | undefined
  readonly signal?: AbortSignal | undefined
}

export type GuardedClient = {
  /**
   * The reply at the end of the redirects, of any status. Throws `invalid_input` for a refused URL.
   */
  readonly get: (url: string, request?: GuardedRequest) => Promise<Reply>
  /** The first reply: redirects are not followed. Throws as `get`. */
  readonly post: (url: string, body: string, request?: GuardedRequest) => Promise<Reply>
  /** As `post`. */
  readonly put: (url: string, body: Uint8Array, request?: GuardedRequest) => Promise<Reply>
  readonly close: () => Promise<void>
}

export type GuardedClientOptions = {
  readonly allowAddress?: AddressRule
  readonly stallTimeoutMs?: number
  readonly proxy?: ProxySettings | undefined
  /** Host names that the operator has configured: a proxy may resolve them. */
  readonly trustedNames?: readonly string[]
}

const maxRedirects = 5
const redirectStatuses: readonly number[] = [301, 302, 303, 307, 308]

/**
 * A client that connects to allowed addresses only. `stallTimeoutMs` is the limit for connecting,
 * for the first byte and between two of them; the default is Cog's.
 */
export function createGuardedClient({
  allowAddress = (address) => isPublicAddress(address),
  stallTimeoutMs = 10_000,
  proxy,
  trustedNames = [],
}: GuardedClientOptions = {}): GuardedClient {
  const direct = buildConnector({ lookup: createLookup(allowAddress), timeout: stallTimeoutMs })
  const agent = new Agent({
    connect: proxy ? createProxyConnector(proxy, direct, resolveTarget, stallTimeoutMs) : direct,
    headersTimeout: stallTimeoutMs,
    bodyTimeout: stallTimeoutMs,
  })

  /** What a proxy is asked to connect to: a trusted name, or else an address that was checked. */
  async function resolveTarget(hostname: string): Promise<string> {
    const isTrusted = trustedNames.includes(hostname) || allowAddress(hostname, hostname)
    // An address in the URL has been checked with the URL.
    if (isTrusted || literalAddress({ hostname }) !== undefined) return hostname
    const addresses = await lookUp(hostname, allowAddress)
    return (addresses.find(({ family }) => family === 4) ?? addresses[0]!).address
  }

  async function get(uri: string, request: GuardedRequest = {}): Promise<Reply> {
    const start = checkUrl(parseUrl(uri), allowAddress)
    let { bearer } = request
    let url = start
    for (let redirects = 0; redirects <= maxRedirects; redirects++) {
      const reply = await send(url, { ...request, bearer })
      if (!redirectStatuses.includes(reply.statusCode)) return { ...reply, url }
      discard(reply)
      url = checkUrl(nextUrl(url, reply.headers.location), allowAddress)
      if (url.origin !== start.origin) bearer = undefined
    }
    throw invalidInput(
      `Expected at most ${maxRedirects} redirects from ${redact(start.href)} but received more`,
    )
  }

  async function upload(
    method: 'POST' | 'PUT',
    uri: string,
    request: GuardedRequest,
    body: string | Uint8Array,
  ): Promise<Reply> {
    const url = checkUrl(parseUrl(uri), allowAddress)
    return { ...(await send(url, request, { method, body })), url }
  }

  function send(
    { origin, pathname, search }: URL,
    { headers, bearer, signal }: GuardedRequest,
    upload?: { readonly method: 'POST' | 'PUT'; readonly body: string | Uint8Array },
  ) {
    return agent.request({
      origin,
      path: pathname + search,
      ...(upload ?? { method: 'GET' }),
      headers: {
        'user-agent': 'fluxd',
        accept: '*/*',
        'accept-encoding': 'identity',
        ...headers,
        ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
      },
      signal: signal ?? null,
    })
  }

  return {
    get,
    post: (url, body, request = {}) => upload('POST', url, request, body),
    put: (url, body, request = {}) => upload('PUT', url, request, body),
    close: () => agent.destroy(),
  }
}

/** Closes the connection without reading the rest; an error of an unread body is no failure. */
export const discard = ({ body }: Pick<Reply, 'body'>) => body.on('error', () => {}).destroy()

/** The URL that `uri` spells; throws `invalid_input` without quoting it. */
export function parseUrl(uri: string): URL {
  try {
    return new URL(uri)
  } catch (cause) {
    throw new FluxdError('invalid_input', 'Expected a URL that can be parsed', { cause })
  }
}

/**
 * Throws unless `url` is http(s), has no credentials, and its host is a name or an allowed address.
 */
function checkUrl(url: URL, allowAddress: AddressRule): URL {
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw invalidInput(`Expected an http or https URL but received ${url.protocol}`)
  if (url.username || url.password)
    throw invalidInput(`Expected a URL without user name and password for ${url.host}`)
  const address = literalAddress(url)
  if (address !== undefined && !allowAddress(address, url.hostname)) throw refused(url.hostname)
  return url
}

const refused = (host: string) =>
  invalidInput(`Expected the URL of a public server but ${host} is not one`)

/** The addresses of `hostname`. Throws if any of them is refused, or where there are none. */
function lookUp(hostname: string, allowAddress: AddressRule): Promise<LookupAddress[]> {
  return new Promise((resolve, reject) => {
    createLookup(allowAddress)(hostname, { all: true }, (error, addresses) => {
      if (!error) return resolve(addresses as LookupAddress[])
      if (error instanceof FluxdError) return reject(error)
      const reason = `${hostname} cannot be resolved here (${codeOf(error)}), and a proxy is set`
      const advice = 'to let the proxy resolve it, add it to FLUXD_ALLOWED_HOSTS'
      reject(new Error(`${reason}: ${advice}`, { cause: error }))
    })
  })
}

/** Node's lookup, which fails if any address of the name is refused. */
const createLookup =
  (allowAddress: AddressRule): LookupFunction =>
  (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, [])
      if (!addresses.every(({ address }) => allowAddress(address, hostname)))
        return callback(refused(hostname), [])
      if (options.all) return callback(null, addresses)
      callback(null, addresses[0]!.address, addresses[0]!.family)
    })
  }

function nextUrl(from: URL, location: string | string[] | undefined): URL {
  if (typeof location === 'string' && URL.canParse(location, from.href))
    return new URL(location, from.href)
  throw invalidInput(`Expected ${redact(from.href)} to redirect to a URL but it names none`)
}
