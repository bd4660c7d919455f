/**
 * Connections through the operator's HTTP proxy: which proxy a URL goes through (HTTP_PROXY,
 * HTTPS_PROXY, NO_PROXY as curl reads them), and the CONNECT tunnel to the target (RFC 9110
 * §9.3.6).
 *
 * A proxy resolves names itself, behind the guard against SSRF. So what is sent to it is a name
 * only if that name is trusted; for any other URL this machine resolves the name, checks every
 * address, and asks the proxy for a tunnel to one of these. TLS is spoken with the target, under
 * its name. Plain http goes through a tunnel, too: a proxy would resolve the name of a forwarded
 * request again.
 */
import { type ClientRequest, request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import type { Socket } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { buildConnector } from 'undici'

/** A value that prints as ***. */
type Secret = { readonly reveal: () => string }

/** Proxies may have credentials in their URLs. */
export type ProxySettings = {
  readonly http: Secret | undefined
  readonly https: Secret | undefined
  /** Hosts that are connected to directly, as in NO_PROXY. */
  readonly exclude: readonly string[]
}

export type ProxyTarget = {
  readonly protocol: string
  readonly hostname: string
  /** Empty for the protocol's own. */
  readonly port: string
}

/** The proxy for connections to `target`; undefined for direct ones. */
export function chooseProxy(settings: ProxySettings, target: ProxyTarget): URL | undefined {
  const proxy = target.protocol === 'https:' ? settings.https : settings.http
  if (!proxy || settings.exclude.some((entry) => isExcluded(entry, target))) return undefined
  return new URL(proxy.reveal())
}

/** The port of `target` as a number. */
const portOf = ({ protocol, port }: ProxyTarget): number =>
  Number(port || (protocol === 'https:' ? 443 : 80))

/** An entry is `*`, a name with all names below it, an address or a range; a port may follow. */
function isExcluded(entry: string, target: ProxyTarget): boolean {
  if (entry === '*') return true
  const host = withoutBrackets(target.hostname).toLowerCase().replace(/\.$/, '')
  if (ipaddr.isValidCIDR(entry)) return isInRange(host, entry)
  const [, name = entry, port] = /^(.+?|\[.+\])(?::(\d+))?$/.exec(entry) ?? []
  if (ipaddr.isValid(entry)) return isSameAddress(host, entry)
  if (port !== undefined && Number(port) !== portOf(target)) return false
  if (name.startsWith('[')) return isSameAddress(host, withoutBrackets(name))
  if (ipaddr.isValid(name)) return isSameAddress(host, name)
  const suffix = name.toLowerCase().replace(/^\*?\./, '')
  return host === suffix || host.endsWith(`.${suffix}`)
}

function isInRange(host: string, range: string): boolean {
  if (!ipaddr.isValid(host)) return false
  const [address, [network, bits]] = [ipaddr.process(host), ipaddr.parseCIDR(range)]
  return address.kind() === network.kind() && address.match(network, bits)
}

const isSameAddress = (host: string, address: string) =>
  ipaddr.isValid(host) && ipaddr.process(host).toString() === ipaddr.process(address).toString()

const withoutBrackets = (hostname: string) => hostname.replace(/^\[(.*)\]$/, '$1')

/**
 * Connects as `direct` does, but through a tunnel where a proxy is set for the target.
 * `resolveTarget` returns what the proxy connects to for a host name.
 */
export const createProxyConnector =
  (
    settings: ProxySettings,
    direct: buildConnector.connector,
    resolveTarget: (hostname: string) => Promise<string>,
    timeoutMs: number,
  ): buildConnector.connector =>
  (options, callback) => {
    const proxy = chooseProxy(settings, options)
    if (!proxy) return direct(options, callback)
    resolveTarget(options.hostname)
      .then((target) => openTunnel(proxy, target, portOf(options), timeoutMs))
      .then((socket) =>
        options.protocol === 'https:'
          ? direct({ ...options, httpSocket: socket }, callback)
          : callback(null, socket),
      )
      .catch((error) => callback(error, null))
  }

/**
 * A socket through `proxy` to `port` of `host`, a name or an address. Throws a sentence, without
 * the proxy's credentials, when the proxy refuses or is slower than `timeoutMs`.
 */
function openTunnel(proxy: URL, host: string, port: number, timeoutMs: number): Promise<Socket> {
  const bare = withoutBrackets(host)
  const target = `${bare.includes(':') ? `[${bare}]` : bare}:${port}`
  const fail = (reason: string, cause?: unknown) =>
    new Error(`Expected the proxy ${proxy.host} to connect to ${target} but ${reason}`, { cause })
  return new Promise((resolve, reject) => {
    const request = connect(proxy, target)
    const timer = setTimeout(
      () => request.destroy(fail(`it did not within ${timeoutMs} ms`)),
      timeoutMs,
    )
    request.once('connect', ({ statusCode = 0 }, socket, head) => {
      clearTimeout(timer)
      if (statusCode >= 200 && statusCode < 300 && head.length === 0) return resolve(socket)
      socket.destroy()
      reject(fail(`it answered with status ${statusCode}`))
    })
    request.once('error', (error) => {
      clearTimeout(timer)
      reject(error.message.startsWith('Expected') ? error : fail(error.message, error))
    })
    request.end()
  })
}

function connect(proxy: URL, target: string): ClientRequest {
  const { protocol, hostname, port, username, password } = proxy
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  const request = protocol === 'https:' ? requestHttps : requestHttp
  return request({
    method: 'CONNECT',
    host: withoutBrackets(hostname),
    port: portOf({ protocol, hostname, port }),
    path: target,
    // Without an agent, which would keep the connection for others.
    agent: false,
    headers: {
      host: target,
      ...(username !== '' && {
        'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}`,
      }),
    },
  })
}
