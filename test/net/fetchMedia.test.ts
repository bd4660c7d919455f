/** What the client refuses to fetch, and what it does with servers that misbehave. */
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createMediaClient, type MediaLimits } from '../../src/net/fetchMedia.js'

function makeClient(limits?: MediaLimits) {
  const client = createMediaClient(limits)
  onTestFinished(() => client.close())
  return client
}

/** A server on 127.0.0.1; returns its origin and what it was asked for. */
async function serve(listener: RequestListener) {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url!)
    listener(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked }
}

const local = { allowAddress: (address: string) => address === '127.0.0.1' }

describe('a server that is not public', () => {
  test.each([
    // This machine, in every spelling.
    'http://127.0.0.1/',
    'http://127.0.0.1:8080/a.png',
    'https://127.0.0.1/',
    'http://127.1/',
    'http://127.0.1/',
    'http://2130706433/',
    'http://0x7f000001/',
    'http://0x7f.1/',
    'http://0x7f.0x0.0x0.0x1/',
    'http://017700000001/',
    'http://0177.0.0.1/',
    'http://0177.1/',
    'http://127.0.0.1./',
    'http://127.255.255.254/',
    'http://１２７.0.0.1/',
    'http://127。0。0。1/',
    'http://%31%32%37.0.0.1/',
    'http://0/',
    'http://0.0.0.0/',
    'http://0.1.2.3/',
    'http://[::1]/',
    'http://[0:0:0:0:0:0:0:1]/',
    'http://[::]/',
    'http://localhost/',
    'http://LOCALHOST:5000/',
    // Its networks.
    'http://10.0.0.1/',
    'http://10.255.255.255/',
    'http://0xa000001/',
    'http://012.0.0.1/',
    'http://172.16.0.1/',
    'http://172.31.255.255/',
    'http://192.168.0.1/',
    'http://192.168.257/',
    'http://3232235521/',
    'http://100.64.0.1/',
    'http://100.127.255.255/',
    'http://[fc00::1]/',
    'http://[fd12:3456:789a::1]/',
    'http://[fe80::1]/',
    'http://[fec0::1]/',
    // Cloud metadata.
    'http://169.254.169.254/latest/meta-data/',
    'http://0xa9fea9fe/',
    'http://2852039166/',
    'http://0251.0376.0251.0376/',
    'http://169.254.43518/',
    'http://100.100.100.200/',
    'http://192.0.0.192/',
    'http://[fd00:ec2::254]/',
    'http://168.63.129.16/machine/?comp=goalstate',
    'http://0xa83f8110/',
    // IPv4 inside IPv6.
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::ffff:a9fe:a9fe]/',
    'http://[::ffff:8.8.8.8]/',
    'http://[::127.0.0.1]/',
    'http://[::a9fe:a9fe]/',
    'http://[::ffff:0:127.0.0.1]/',
    'http://[64:ff9b::127.0.0.1]/',
    'http://[64:ff9b::a00:1]/',
    'http://[64:ff9b:1::7f00:1]/',
    'http://[2002:7f00:1::]/',
    'http://[2002:a9fe:a9fe::1]/',
    'http://[2001:0:7f00:1::]/',
    // Neither host nor public.
    'http://224.0.0.1/',
    'http://239.255.255.250/',
    'http://240.0.0.1/',
    'http://255.255.255.255/',
    'http://192.0.2.1/',
    'http://198.18.0.1/',
    'http://198.51.100.7/',
    'http://203.0.113.9/',
    'http://192.88.99.1/',
    'http://[ff02::1]/',
    'http://[100::1]/',
    'http://[2001:db8::1]/',
    'http://[3fff::1]/',
    'http://[5f00::1]/',
    'http://[4000::1]/',
  ])('is refused: %s', async (uri) => {
    await expect(makeClient().fetch(uri)).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringMatching(/^Expected the URL of a public server but .+ is not one$/),
    })
  })

  test('is refused where a name leads there, on the very addresses that would be connected to', async () => {
    const { origin, asked } = await serve((_, response) => response.end('secret'))
    const seen: string[] = []
    const client = makeClient({
      allowAddress: (address) => {
        seen.push(address)
        return false
      },
    })
    const uri = origin.replace('127.0.0.1', 'localhost')
    await expect(client.fetch(uri)).rejects.toThrow('but localhost is not one')
    expect(seen.length).toBeGreaterThan(0)
    expect(asked).toEqual([])
  })

  test.each([301, 302, 303, 307, 308])('is refused after a redirect by %i', async (status) => {
    const { origin, asked } = await serve((_, response) =>
      response.writeHead(status, { location: 'http://169.254.169.254/latest/' }).end(),
    )
    await expect(makeClient(local).fetch(`${origin}/a`)).rejects.toThrow(
      'Expected the URL of a public server but 169.254.169.254 is not one',
    )
    expect(asked).toEqual(['/a'])
  })
})

test.each([
  ['ftp://example.org/a.png', 'Expected an http or https URL but received ftp:'],
  ['file:///etc/passwd', 'Expected an http or https URL but received file:'],
  ['gopher://127.0.0.1:6379/_x', 'Expected an http or https URL but received gopher:'],
  ['http://user:secret@example.org/', 'without user name and password for example.org'],
  ['https://token@example.org/', 'without user name and password for example.org'],
  ['http://', 'Expected a URL that can be parsed'],
  ['http://[::1', 'Expected a URL that can be parsed'],
  ['http://1.2.3.4.5/', 'Expected a URL that can be parsed'],
  ['http://256.256.256.256/', 'Expected a URL that can be parsed'],
  ['http://[fe80::1%25eth0]/', 'Expected a URL that can be parsed'],
])('%s is refused', async (uri, message) => {
  await expect(makeClient().fetch(uri)).rejects.toThrow(message)
})

describe('a server', () => {
  test('gives its bytes, through redirects and by name', async () => {
    const { origin, asked } = await serve(({ url }, response) => {
      if (url === '/first?a=1') response.writeHead(302, { location: '/second' }).end()
      else if (url === '/second') response.writeHead(307, { location: `${named}/last` }).end()
      else response.end('bytes')
    })
    const named = origin.replace('127.0.0.1', 'localhost')
    const client = makeClient({ allowAddress: (a) => ['127.0.0.1', '::1'].includes(a) })
    expect(Buffer.from(await client.fetch(`${origin}/first?a=1#b`)).toString()).toBe('bytes')
    expect(asked).toEqual(['/first?a=1', '/second', '/last'])
  })

  test('may redirect five times and no more', async () => {
    const { origin } = await serve(({ url }, response) => {
      const left = Number(url!.slice(1))
      if (left === 0) response.end('there')
      else response.writeHead(302, { location: `/${left - 1}` }).end()
    })
    const client = makeClient(local)
    expect(await client.fetch(`${origin}/5`)).toHaveLength(5)
    await expect(client.fetch(`${origin}/6`)).rejects.toThrow(
      `Expected at most 5 redirects from ${origin}/6 but received more`,
    )
  })

  test('that redirects to nowhere is refused', async () => {
    const { origin } = await serve((_, response) => response.writeHead(302).end())
    await expect(makeClient(local).fetch(origin)).rejects.toThrow('but it names none')
  })

  test.each([204, 400, 401, 404, 500])(
    'that answers %i is an error that names the URL without its secrets',
    async (status) => {
      const { origin } = await serve((_, response) => response.writeHead(status).end())
      await expect(makeClient(local).fetch(`${origin}/a.png?token=secret`)).rejects.toMatchObject({
        code: 'invalid_input',
        message: `Expected a file at ${origin}/a.png?token=*** but received status ${status}`,
      })
    },
  )

  test('that announces too much is not read', async () => {
    const { origin } = await serve((_, response) =>
      response.writeHead(200, { 'content-length': '1001' }).write('x'),
    )
    const client = makeClient({ ...local, maxBytes: 1000 })
    await expect(client.fetch(origin)).rejects.toThrow('Expected a file of at most 1000 bytes')
  })

  test('that sends too much is cut off', async () => {
    let open = true
    const { origin } = await serve((_, response) => {
      response.on('close', () => {
        open = false
      })
      const write = () =>
        void (open && response.write(Buffer.alloc(600), () => setImmediate(write)))
      write()
    })
    const client = makeClient({ ...local, maxBytes: 1000 })
    await expect(client.fetch(origin)).rejects.toThrow('Expected a file of at most 1000 bytes')
    await expect.poll(() => open).toBe(false)
  })

  test.each([
    ['never answers', () => {}],
    [
      'never ends',
      (_: unknown, response: Parameters<RequestListener>[1]) => {
        setInterval(() => response.write('x'), 20).unref()
      },
    ],
    [
      'redirects slowly',
      (_: unknown, response: Parameters<RequestListener>[1]) => {
        setTimeout(() => response.writeHead(302, { location: '/' }).end(), 90)
      },
    ],
  ] as const)('that %s is given up after the total time', async (_, listener) => {
    const { origin } = await serve(listener)
    const client = makeClient({ ...local, timeoutMs: 200 })
    await expect(client.fetch(`${origin}/a`)).rejects.toThrow(
      `Could not fetch ${origin}/a: it took longer than 200 ms`,
    )
  })

  test('that breaks off or is not there is an error with the reason', async () => {
    const { origin } = await serve((_, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('x', () => response.destroy())
    })
    await expect(makeClient(local).fetch(origin)).rejects.toThrow(`Could not fetch ${origin}/: `)
    await expect(makeClient(local).fetch('http://127.0.0.1:1/')).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringMatching(/^Could not fetch http:\/\/127.0.0.1:1\/: .*ECONNREFUSED/),
    })
  })

  test('is left when the prediction is canceled', async () => {
    const { origin } = await serve(() => {})
    const canceling = new AbortController()
    const fetching = makeClient(local).fetch(origin, canceling.signal)
    setTimeout(() => canceling.abort(), 50)
    await expect(fetching).rejects.toMatchObject({ code: 'canceled' })
  })
})

describe('a data URI', () => {
  const decode = async (uri: string) => Buffer.from(await makeClient({ maxBytes: 10 }).fetch(uri))

  test.each([
    ['data:image/png;base64,iVBORw==', '\x89PNG'],
    ['data:;base64,iVBORw', '\x89PNG'],
    ['DATA:image/png;charset=x;BASE64,iVBORw==', '\x89PNG'],
    ['data:image/png;base64,iVBO%52w%3D%3D', '\x89PNG'],
    ['data:image/png;base64,iVBO\nRw==', '\x89PNG'],
    ['data:,%89PNG', '\x89PNG'],
    ['data:image/png,%89P%4eG%0d%0A', '\x89PNG\r\n'],
    ['data:text/plain,100%', '100%'],
    ['data:,a,b', 'a,b'],
  ])('%j is decoded', async (uri, text) => {
    expect((await decode(uri)).toString('latin1')).toBe(text)
  })

  test.each([
    [
      'data:image/png;base64',
      'Expected a comma and data in the data URI but received data:image/png;base64…',
    ],
    ['data:image/png;base64,', 'Expected data in the data URI but received data:image/png;base64,'],
    [`data:;base64,${'A'.repeat(16)}`, 'at most 10 bytes'],
    [`data:;base64,${'A'.repeat(1e6)}`, 'at most 10 bytes'],
    [`data:,${'a'.repeat(11)}`, 'at most 10 bytes'],
    [`data:,${'%41'.repeat(11)}`, 'at most 10 bytes'],
  ])('%.40s is refused', async (uri, message) => {
    await expect(decode(uri)).rejects.toThrow(message)
  })
})
