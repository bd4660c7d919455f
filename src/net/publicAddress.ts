/**
 * Which addresses the server may be sent to by a user. Everything that is not plainly part of the
 * public internet is refused: this machine, its networks, cloud metadata, and addresses in which
 * another one is wrapped (IPv4-mapped, NAT64, 6to4, Teredo).
 */
import ipaddr from 'ipaddr.js'

// All global unicast addresses are in here (RFC 4291 §2.4); ::/96, the IPv4-compatible ones, are
// not.
const globalUnicast = ipaddr.IPv6.parseCIDR('2000::/3')

/** Whether `address`, which is what `host` is or resolved to, may be connected to. */
export type AddressRule = (address: string, host: string) => boolean

/** True for a public unicast address; false for every other one and for what is no address. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.parse(address)
  if (parsed.range() !== 'unicast') return false
  return parsed instanceof ipaddr.IPv4 || parsed.match(globalUnicast)
}

/**
 * Public addresses, and besides them those that `allowed` names: host names (for whatever they
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
  const parsed = ipaddr.parse(address)
  return parsed.kind() === network.kind() && parsed.match(network, bits)
}

/**
 * The address that a URL's host is written as, if it is no name. `URL` has already rewritten
 * decimal, octal, hexadecimal and shortened forms (`http://0x7f.1` is at `127.0.0.1`).
 */
export function literalAddress({ hostname }: URL): string | undefined {
  const address = hostname.replace(/^\[(.*)\]$/, '$1')
  return ipaddr.isValid(address) ? address : undefined
}
