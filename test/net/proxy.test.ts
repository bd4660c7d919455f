/** Downloads through a proxy: what it is asked for, and that users cannot reach its networks by it. */
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createGuardedClient, type GuardedClientOptions } from '../../src/net/guardedClient.js'
import { chooseProxy } from '../../src/net/proxy.js'
import { readBody } from '../../src/net/replyBody.js'
import { listen, startProxy, through } from './proxyServer.js'

const serve = (listener: RequestListener) => listen(createHttpServer(listener))

function makeClient(options: GuardedClientOptions) {
  const client = createGuardedClient({ stallTimeoutMs: 5000, ...options })
  onTestFinished(() => client.close())
  return async (url: string) => (await readBody(await client.get(url), 1000)).toString()
}

const isLoopback = (address: string) => ['127.0.0.1', '::1'].includes(address)

describe('through a proxy', () => {
  test('a name of a user is resolved and checked here; the proxy connects to the address', async () => {
    const port = await serve(({ headers }, response) => response.end(headers.host))
    const proxy = await startProxy()
    const get = makeClient({ allowAddress: isLoopback, proxy: through(proxy.url) })
    expect(await get(`http://localhost:${port}/a`)).toBe(`localhost:${port}`)
    expect(proxy.targets()).toEqual([`127.0.0.1:${port}`])
  })

  test('TLS is spoken with the target, under its name', async () => {
    const hellos: string[] = []
    const port = await listen(
      createServer((socket) => {
        socket.once('data', (hello) => {
          hellos.push(hello.toString('latin1'))
          socket.destroy()
        })
      }),
    )
    const proxy = await startProxy()
    const get = makeClient({ allowAddress: isLoopback, proxy: through(proxy.url) })
    await expect(get(`https://localhost:${port}/a?token=secret`)).rejects.toThrow()
    expect(proxy.targets()).toEqual([`127.0.0.1:${port}`])
    expect(hellos).toEqual([expect.stringContaining('localhost')])
    expect(hellos.join()).not.toContain('secret')
  })

  test.each([
    ['http://localhost:1/', 'localhost'],
    ['https://localhost:1/', 'localhost'],
    ['http://127.0.0.1:1/', '127.0.0.1'],
    ['https://[::1]:1/', '[::1]'],
    ['http://169.254.169.254/latest/', '169.254.169.254'],
    ['http://168.63.129.16/', '168.63.129.16'],
  ])('%s, which is not public, is refused before the proxy is asked', async (url, host) => {
    const proxy = await startProxy()
    await expect(makeClient({ proxy: through(proxy.url) })(url)).rejects.toThrow(
      `Expected the URL of a public server but ${host} is not one`,
    )
    expect(proxy.asked).toEqual([])
  })

  test('a redirect to an address that is not public is refused', async () => {
    const port = await serve((_, response) =>
      response.writeHead(302, { location: 'http://10.0.0.1/secret' }).end(),
    )
    const proxy = await startProxy()
    const get = makeClient({ allowAddress: isLoopback, proxy: through(proxy.url) })
    await expect(get(`http://127.0.0.1:${port}/`)).rejects.toThrow('but 10.0.0.1 is not one')
    expect(proxy.targets()).toEqual([`127.0.0.1:${port}`])
  })

  test('a name that cannot be resolved here is refused, with advice', async () => {
    const proxy = await startProxy()
    await expect(
      makeClient({ proxy: through(proxy.url) })('http://nowhere.invalid/a'),
    ).rejects.toThrow(/nowhere\.invalid cannot be resolved here .* FLUXD_ALLOWED_HOSTS$/)
    expect(proxy.asked).toEqual([])
  })

  test.each([
    ['configured', { trustedNames: ['hub.invalid'] }],
    ['allowed', { allowAddress: (_: string, host: string) => host === 'hub.invalid' }],
  ])('a name that the operator has %s is resolved by the proxy', async (_, options) => {
    const port = await serve((_, response) => response.end('from the hub'))
    const proxy = await startProxy()
    const get = makeClient({ ...options, proxy: through(proxy.url) })
    expect(await get(`http://hub.invalid:${port}/a`)).toBe('from the hub')
    expect(proxy.targets()).toEqual([`hub.invalid:${port}`])
  })

  test('credentials of the proxy go to the proxy, and into no message', async () => {
    const proxy = await startProxy(407)
    const url = proxy.url.replace('//', '//me:s%40cret@')
    const get = makeClient({ allowAddress: isLoopback, proxy: through(url) })
    const failure = await get('http://127.0.0.1:1/').catch((error: Error) => error)
    expect(failure).toMatchObject({
      message: `Expected the proxy ${proxy.url.slice(7)} to connect to 127.0.0.1:1 but it answered with status 407`,
    })
    const sent = Buffer.from('me:s@cret').toString('base64')
    expect(proxy.asked[0]!.headers['proxy-authorization']).toBe(`Basic ${sent}`)
  })

  test('a proxy that is not there or never answers is an error', async () => {
    const silent = await listen(createServer(() => {}))
    for (const [url, reason] of [
      ['http://127.0.0.1:1', /ECONNREFUSED/],
      [`http://127.0.0.1:${silent}`, /it did not within 100 ms/],
    ] as const) {
      const proxy = through(url)
      const get = makeClient({ allowAddress: isLoopback, proxy, stallTimeoutMs: 100 })
      await expect(get('http://127.0.0.1:2/')).rejects.toThrow(reason)
    }
  })

  test('what is excluded is connected to directly, under the same guard', async () => {
    const port = await serve((_, response) => response.end('direct'))
    const proxy = await startProxy()
    const settings = through(proxy.url, ['localhost', '127.0.0.0/8'])
    const get = makeClient({ allowAddress: isLoopback, proxy: settings })
    expect(await get(`http://localhost:${port}/`)).toBe('direct')
    expect(await get(`http://127.0.0.1:${port}/`)).toBe('direct')
    await expect(makeClient({ proxy: settings })(`http://localhost:${port}/`)).rejects.toThrow(
      'but localhost is not one',
    )
    expect(proxy.asked).toEqual([])
  })
})

describe('NO_PROXY', () => {
  const proxied = (exclude: readonly string[], url: string) =>
    chooseProxy(through('http://proxy:3128', exclude), new URL(url)) !== undefined

  test.each([
    [['example.org'], 'http://example.org/', false],
    [['example.org'], 'https://a.b.EXAMPLE.org/', false],
    [['.example.org'], 'https://a.example.org/', false],
    [['*.example.org'], 'https://a.example.org/', false],
    [['example.org'], 'http://notexample.org/', true],
    [['example.org'], 'http://example.org.evil.test/', true],
    [['example.org:8080'], 'http://example.org:8080/', false],
    [['example.org:8080'], 'http://example.org/', true],
    [['example.org:443'], 'https://example.org/', false],
    [['example.org'], 'http://example.org./', false],
    [['10.0.0.0/8'], 'http://10.1.2.3/', false],
    [['10.0.0.0/8'], 'http://11.1.2.3/', true],
    [['10.0.0.0/8'], 'http://ten.example/', true],
    [['127.0.0.1'], 'http://0x7f.1/', false],
    [['::1'], 'http://[::1]/', false],
    [['[::1]:80'], 'http://[0:0::1]/', false],
    [['fd00::/8'], 'http://[fd12::1]/', false],
    [['*'], 'http://example.org/', false],
    [[], 'http://example.org/', true],
  ])('%j for %s', (exclude, url, expected) => {
    expect(proxied(exclude, url)).toBe(expected)
  })

  test('each protocol has its proxy', () => {
    const http = { reveal: () => 'http://a' }
    const settings = { http, https: undefined, exclude: [] }
    expect(chooseProxy(settings, new URL('http://example.org'))?.host).toBe('a')
    expect(chooseProxy(settings, new URL('https://example.org'))).toBeUndefined()
  })
})
