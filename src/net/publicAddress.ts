/**
 * The addresses that URLs of users may lead to. Everything that is not plainly part of the public
 * internet is refused: this machine, private networks, cloud metadata, and addresses that contain
 * another one (IPv4-mapped, NAT64, 6to4, Teredo).
 */
import { networkInterfaces } from 'node:os'
import ipaddr from 'ipaddr.js'

// Contains all global unicast addresses (RFC 4291 §2.4), but not ::/96, the IPv4-compatible ones.
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * Ranges that look public but lead to services of the platform that this machine runs on, which
 * trust it: Azure's host (learn.microsoft.com, "What is IP address 168.63.129.16?"), and the
 * service and infrastructure networks of IBM Cloud.
 */
const platformRanges = ['168.63.129.16/32', '161.26.0.0/16', '166.8.0.0/14'].map((range) =>
  ipaddr.IPv4.parseCIDR(range),
)

/** Whether `address`, which `host` is or resolved to, may be connected to. */
export type AddressRule = (address: string, host: string) => boolean

/**
 * True for a public unicast address of another machine; false for any other address, for addresses
 * of the platform and of this machine's interfaces, which `listOwn` returns, and for other text.
 */
export function isPublicAddress(address: string, listOwn = listOwnAddresses): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  if (parsed.range() !== 'unicast') return false
  const isPublic =
    parsed instanceof ipaddr.IPv4
      ? !platformRanges.some((range) => parsed.match(range))
      : parsed.match(globalUnicast)
  return isPublic && !listOwn().includes(parsed.toString())
}

/** The addresses of this machine, in canonical form. Read at each call: they change. */
const listOwnAddresses = (): readonly string[] =>
  Object.values(networkInterfaces()).flatMap((addresses = []) =>
    addresses.flatMap(({ address }) =>
      ipaddr.isValid(address) ? ipaddr.parse(address).toString() : [],
    ),
  )

/**
 * Allows public addresses and those that `allowed` names: host names (with all addresses that they
 * resolve to), addresses, and ranges such as 10.0.0.0/8.
 */
export function allowHosts(allowed: readonly string[]): AddressRule {
  const names = new Set(allowed.map((each) => each.toLowerCase()))
  const ranges = allowed.filter(ipaddr.isValidCIDR).map((each) => ipaddr.parseCIDR(each))
  return (address, host) =>
    isPublicAddress(address) ||
    names.has(host.toLowerCase()) ||
    names.has(address) ||
    ranges.some((range) => isInRange(address, range))
}

function isInRange(address: string, [network, bits]: ReturnType<typeof ipaddr.parseCIDR>) {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  return parsed.kind() === network.kind() && parsed.match(network, bits)
}

/**
 * The address that a URL's host is written as, if it is no name. `URL` has already rewritten
 * decimal, octal, hexadecimal and shortened forms (`http://0x7f.1` is at `127.0.0.1`).
 */
export function literalAddress({ hostname }: Pick<URL, 'hostname'>): string | undefined {
  const address = hostname.replace(/^\[(.*)\]$/, '$1')
  return ipaddr.isValid(address) ? address : undefined
}
