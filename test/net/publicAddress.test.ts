import { describe, expect, test } from 'vitest'
import { allowHosts } from '../../src/net/publicAddress.js'

describe('hosts that are allowed besides the public ones', () => {
  const allow = allowHosts(['hub.internal', '10.1.0.0/16', '192.168.7.7', 'fd00::/8'])

  test.each([
    ['8.8.8.8', 'example.org', true],
    ['127.0.0.1', 'example.org', false],
    ['127.0.0.1', 'hub.internal', true],
    ['127.0.0.1', 'HUB.internal', true],
    ['127.0.0.1', 'nohub.internal', false],
    ['10.1.2.3', 'example.org', true],
    ['10.2.0.1', 'example.org', false],
    ['192.168.7.7', '192.168.7.7', true],
    ['192.168.7.7', 'example.org', true],
    ['192.168.7.8', 'example.org', false],
    ['fd12::1', '[fd12::1]', true],
    ['fe80::1', '[fe80::1]', false],
    ['::ffff:10.1.2.3', '[::ffff:a01:203]', false],
  ])('%s as %s: %s', (address, host, allowed) => {
    expect(allow(address, host)).toBe(allowed)
  })

  test('none are by default', () => {
    expect(allowHosts([])('10.1.2.3', 'hub.internal')).toBe(false)
    expect(allowHosts([])('1.1.1.1', 'one.one.one.one')).toBe(true)
  })
})
