/**
 * The proxies of the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` for both, and
 * `NO_PROXY`, a list separated by commas or spaces. As in curl, names in lower case count first.
 */
import type { ProxySettings } from '../net/proxy.js'
import { createSecret } from './parsers.js'

type Variables = Readonly<Record<string, string | undefined>>

export type EnvironmentProxies = {
  readonly proxy: ProxySettings
  /** A sentence for each variable that is not a proxy of a kind that fluxd can use. */
  readonly warnings: readonly string[]
}

/** The proxies that `variables` set; URLs that cannot be used are left out and warned of. */
export function readProxies(variables: Variables): EnvironmentProxies {
  const warnings: string[] = []
  const read = (...names: readonly string[]) => {
    const name = names.flatMap((each) => [each.toLowerCase(), each]).find((each) => variables[each])
    if (name === undefined) return undefined
    const url = toProxyUrl(variables[name]!)
    if (url !== undefined) return createSecret(url)
    warnings.push(`Expected ${name} to be an http or https URL; it is not used`)
    return undefined
  }
  const list = variables['no_proxy'] || variables['NO_PROXY'] || ''
  const proxy = {
    http: read('HTTP_PROXY', 'ALL_PROXY'),
    https: read('HTTPS_PROXY', 'ALL_PROXY'),
    exclude: list.split(/[\s,]+/).filter((entry) => entry !== ''),
  }
  return { proxy: Object.freeze(proxy), warnings: [...new Set(warnings)] }
}

/** `proxy:3128` is as good as `http://proxy:3128`. */
function toProxyUrl(text: string): string | undefined {
  const url = text.includes('://') ? text : `http://${text}`
  if (!URL.canParse(url)) return undefined
  const { protocol, href } = new URL(url)
  return protocol === 'http:' || protocol === 'https:' ? href : undefined
}
