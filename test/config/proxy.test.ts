import { expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'

const read = (variables: Readonly<Record<string, string>>) => {
  const { proxy, warnings } = readConfig(variables)
  const { http, https, exclude } = proxy
  return { http: http?.reveal(), https: https?.reveal(), exclude, warnings }
}
const none = { http: undefined, https: undefined, exclude: [], warnings: [] }

test.each([
  [{}, none],
  [{ HTTP_PROXY: 'http://p:1' }, { ...none, http: 'http://p:1/' }],
  [{ HTTPS_PROXY: 'https://p:1' }, { ...none, https: 'https://p:1/' }],
  [
    { https_proxy: 'http://low', HTTPS_PROXY: 'http://up' },
    { ...none, https: 'http://low/' },
  ],
  [{ ALL_PROXY: 'p:3128' }, { ...none, http: 'http://p:3128/', https: 'http://p:3128/' }],
  [
    { all_proxy: 'http://a', HTTPS_PROXY: 'http://b' },
    { ...none, http: 'http://a/', https: 'http://b/' },
  ],
  [{ HTTP_PROXY: '' }, none],
  [
    { NO_PROXY: 'localhost, .corp 10.0.0.0/8' },
    { ...none, exclude: ['localhost', '.corp', '10.0.0.0/8'] },
  ],
])('%j are the proxies of the configuration', (variables, expected) => {
  expect(read(variables)).toEqual(expected)
})

test('a proxy that cannot be used is warned of, without what it holds', () => {
  expect(read({ ALL_PROXY: 'socks5://me:secret@p', HTTPS_PROXY: 'http://[' })).toEqual({
    ...none,
    warnings: [
      'Expected ALL_PROXY to be an http or https URL; it is not used',
      'Expected HTTPS_PROXY to be an http or https URL; it is not used',
    ],
  })
})

test('credentials of a proxy are not printed', () => {
  const config = readConfig({ HTTPS_PROXY: 'http://me:secret@proxy' })
  expect(JSON.stringify(config)).not.toContain('secret')
})
