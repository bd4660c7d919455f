/**
 * Keeps web pages away from a server that needs no key. A page of any site can make its visitor's
 * browser send requests to this machine (CSRF), and can read the replies once its own name resolves
 * to a loopback address (DNS rebinding). The browser's `Host`, `Origin` and `Sec-Fetch-Site` give
 * both away, and no page can change them; other clients send no `Origin` and no `Sec-Fetch-Site`.
 */
import type { FastifyRequest } from 'fastify'
import { FluxdError } from '../../errors.js'
import type { Scope } from '../../store/apiKeyStore.js'
import { isLoopback } from '../auth/listenHost.js'

export type TrustedOrigins = {
  /** Where clients reach this server (`FLUXD_PUBLIC_URL`). */
  readonly publicUrl: string | undefined
  /** Of pages that may do what a client may (`FLUXD_CORS_ORIGINS`); `*` are all pages. */
  readonly corsOrigins: readonly string[]
}

/** Throws `forbidden` for a request that a page of another site may have caused. */
export type AssertNoForeignPage = (request: FastifyRequest, access: Scope) => void

export function createOriginCheck({ publicUrl, corsOrigins }: TrustedOrigins): AssertNoForeignPage {
  const named = [publicUrl, ...corsOrigins].flatMap((url) => parseOrigin(url) ?? [])
  const trustedHosts = new Set(named.map(({ host }) => host))
  const trustedOrigins = new Set(named.map(({ origin }) => origin))

  return (request, access) => {
    const { host, origin, 'sec-fetch-site': site } = request.headers
    // HTTP/1.0 knows no Host; every browser sends one.
    if (host !== undefined && !isLoopback(hostnameOf(host)) && !trustedHosts.has(lower(host)))
      throw refuse('the host localhost, 127.0.0.1 or that of FLUXD_PUBLIC_URL', host)
    if (isSameOrigin(origin, host) || trustedOrigins.has(origin ?? '')) return
    // All pages may use the server then, but not administer it.
    if (corsOrigins.includes('*') && access !== 'admin') return
    if (origin !== undefined)
      throw refuse('an origin that is this server or one of FLUXD_CORS_ORIGINS', origin)
    if (site !== undefined && !isHarmlessSite(site) && !isNavigation(request))
      throw refuse('a request from a page of this server', `one that is ${String(site)}`)
  }
}

/** The scheme does not count: TLS may end in front of this server. */
const isSameOrigin = (origin: string | undefined, host: string | undefined) =>
  origin !== undefined &&
  host !== undefined &&
  /^https?:\/\/(.+)$/.exec(origin)?.[1] === lower(host)

const lower = (text: string) => text.toLowerCase()

/** `none` is the address bar. */
const isHarmlessSite = (site: string | string[]) => site === 'same-origin' || site === 'none'

/** A followed link: the page that has it cannot read what the browser shows then. */
const isNavigation = ({ method, headers }: FastifyRequest) =>
  method === 'GET' &&
  headers['sec-fetch-mode'] === 'navigate' &&
  headers['sec-fetch-dest'] === 'document'

/** `localhost:5000` or `[::1]:5000` without the port; empty for what is no host. */
function hostnameOf(host: string): string {
  const url = parseOrigin(`http://${host}`)
  if (url === undefined || host.includes('@') || host.includes('/')) return ''
  const name = url.hostname.replace(/^\[|\]$/g, '')
  return name.endsWith('.localhost') ? 'localhost' : name
}

const parseOrigin = (url: string | undefined) =>
  url !== undefined && URL.canParse(url) ? new URL(url) : undefined

const refuse = (expected: string, received: string) =>
  new FluxdError(
    'forbidden',
    'Without a key this server is for programs of its own machine: ' +
      `expected ${expected} but received ${JSON.stringify(received.slice(0, 200))}`,
  )
