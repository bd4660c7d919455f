import { describe, expect, test } from 'vitest'
import { allowHosts, isPublicAddress } from '../../src/net/publicAddress.js'

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

test.each([
  // Azure's host service, which hands out certificates and settings.
  '168.63.129.16',
  // Services of IBM Cloud.
  '161.26.0.7',
  '166.8.0.1',
  '166.11.255.255',
])('%s is an address of the platform and not public', (address) => {
  expect(isPublicAddress(address)).toBe(false)
  expect(allowHosts([])(address, 'example.org')).toBe(false)
  expect(allowHosts([address])(address, 'example.org')).toBe(true)
})

test('neighbours of platform ranges are public', () => {
  for (const address of ['168.63.129.15', '168.63.129.17', '161.27.0.1', '166.12.0.0'])
    expect(isPublicAddress(address)).toBe(true)
})

test('a public address of this machine is not public, in any spelling', () => {
  const own = () => ['81.2.69.142', '2606:4700::1']
  expect(isPublicAddress('81.2.69.142', own)).toBe(false)
  expect(isPublicAddress('2606:4700:0:0::1', own)).toBe(false)
  expect(isPublicAddress('81.2.69.143', own)).toBe(true)
})
