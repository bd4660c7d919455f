/** What a download does with servers that break off, lie or change their mind. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, onTestFinished, test } from 'vitest'
import { download, type RetryPolicy } from '../../src/net/download/resumable.js'
import { createGuardedClient } from '../../src/net/guardedClient.js'
import { type FileOptions, makeWeights, sha256, startHost } from './hosts.js'

const retry: RetryPolicy = {
  attempts: 3,
  delayMs: 5,
  stallMs: 150,
  timeoutMs: 5000,
  minBytesPerSecond: 0,
}
const bytes = makeWeights(100_000)

async function setUp(options: FileOptions = {}, limits: Partial<RetryPolicy> = {}) {
  const host = await startHost()
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-download-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const part = join(folder, 'a.part')
  const received = () => statSync(part, { throwIfNoEntry: false })?.size ?? 0
  host.file('/lora', bytes, { received, ...options })
  const client = createGuardedClient({
    allowAddress: (address) => address === '127.0.0.1',
    stallTimeoutMs: retry.stallMs,
  })
  onTestFinished(() => client.close())
  const pull = (request: Partial<Parameters<typeof download>[2]> = {}) =>
    download(
      client,
      part,
      {
        url: `${host.origin}/lora`,
        maxBytes: 2 ** 20,
        signal: new AbortController().signal,
        ...request,
      },
      { ...retry, ...limits },
    )
  return { host, part, pull, ranges: () => host.asked.map(({ headers }) => headers.range) }
}

const whole = { kind: 'file', bytes: bytes.length, sha256: sha256(bytes) }

test('a file arrives whole, with its hash and its progress', async () => {
  const { part, pull, ranges } = await setUp()
  const seen: (readonly [number, number | undefined])[] = []
  expect(await pull({ onProgress: (...each) => seen.push(each) })).toEqual(whole)
  expect(readFileSync(part)).toEqual(bytes)
  expect(seen.at(-1)).toEqual([bytes.length, bytes.length])
  expect(ranges()).toEqual([undefined])
})

describe('a connection that breaks off', () => {
  test.each([
    ['with an ETag', { etag: '"v1"' }, '"v1"'],
    ['with an ETag without quotes', { etag: 'v1', lastModified: 'yesterday' }, 'v1'],
    [
      'with a date',
      { lastModified: 'Wed, 21 Oct 2015 07:28:00 GMT' },
      'Wed, 21 Oct 2015 07:28:00 GMT',
    ],
  ])('is taken up where it ended: %s', async (_, validators, condition) => {
    const { host, part, pull, ranges } = await setUp({
      ...validators,
      faults: [
        { kind: 'cut', after: 30_000 },
        { kind: 'cut', after: 10_000 },
      ],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, 'bytes=30000-', 'bytes=40000-'])
    expect(host.asked[1]!.headers['if-range']).toBe(condition)
  })

  test.each([
    ['no validator', {}],
    ['a weak ETag', { etag: 'W/"v1"' }],
  ])('is begun again where the file has %s', async (_, validators) => {
    const { part, pull, ranges } = await setUp({
      ...validators,
      faults: [{ kind: 'cut', after: 30_000 }],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, undefined])
  })

  test('is given up after three attempts, and what came is kept', async () => {
    const fault = { kind: 'cut', after: 10 } as const
    const { part, pull } = await setUp({ etag: '"v1"', faults: [fault, fault, fault] })
    await expect(pull()).rejects.toThrow(/closed|terminated/)
    expect(readFileSync(part)).toEqual(bytes.subarray(0, 30))
    expect(await pull()).toEqual(whole)
  })

  test('is taken up by the next process', async () => {
    const fault = { kind: 'cut', after: 20_000 } as const
    const { host, part, pull, ranges } = await setUp(
      { etag: '"v1"', faults: [fault] },
      { attempts: 1 },
    )
    await expect(pull()).rejects.toThrow()
    expect(readFileSync(part)).toHaveLength(20_000)
    expect(await pull()).toEqual(whole)
    expect(ranges()).toEqual([undefined, 'bytes=20000-'])
    expect(host.asked).toHaveLength(2)
  })

  test('is noticed where the length was not announced', async () => {
    const { pull, part } = await setUp({ faults: [{ kind: 'chunkedCut', after: 5000 }] })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
  })

  test('and a file that changed meanwhile come to one file, the new one', async () => {
    const { host, part, pull } = await setUp(
      { etag: '"v1"', faults: [{ kind: 'cut', after: 20_000 }] },
      { attempts: 1 },
    )
    await expect(pull()).rejects.toThrow()
    const changed = makeWeights(50_000)
    host.file('/lora', changed, { etag: '"v2"' })
    expect(await pull()).toMatchObject({ bytes: changed.length, sha256: sha256(changed) })
    expect(readFileSync(part)).toEqual(changed)
    expect(host.asked[1]!.headers).toMatchObject({ range: 'bytes=20000-', 'if-range': '"v1"' })
  })

  test('and a file of the same length in its place are not mixed, whatever the server does with If-Range', async () => {
    const changed = makeWeights(100_000)
    const { host, part, pull, ranges } = await setUp(
      { etag: '"v1"', faults: [{ kind: 'cut', after: 20_000 }] },
      { attempts: 1 },
    )
    await expect(pull()).rejects.toThrow()
    host.file('/lora', changed, { etag: '"v2"', faults: [{ kind: 'ignoreIfRange' }] })
    await expect(pull()).rejects.toThrow('the server answered a range it was not asked for')
    expect(await pull()).toMatchObject({ sha256: sha256(changed) })
    expect(readFileSync(part)).toEqual(changed)
    expect(ranges()).toEqual([undefined, 'bytes=20000-', undefined])
  })

  test('and what another URL left are not mixed', async () => {
    const { host, part, pull, ranges } = await setUp(
      { etag: '"v1"', faults: [{ kind: 'cut', after: 20_000 }] },
      { attempts: 1 },
    )
    await expect(pull()).rejects.toThrow()
    host.file('/other', bytes, { etag: '"v1"' })
    expect(await pull({ url: `${host.origin}/other` })).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, undefined])
  })

  test('and bytes of unknown origin are not mixed', async () => {
    const { part, pull, ranges } = await setUp({ etag: '"v1"' })
    writeFileSync(part, 'of unknown origin')
    expect(await pull()).toEqual(whole)
    expect(ranges()).toEqual([undefined])
  })
})

describe('a server that', () => {
  test('sends less than it announced is asked for the rest', async () => {
    const { part, pull, ranges } = await setUp({
      etag: '"v1"',
      faults: [{ kind: 'short', by: 40_000 }],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()[1]).toBe(`bytes=${bytes.length - 40_000}-`)
  })

  test('always sends less than it announced fails', async () => {
    const fault = { kind: 'short', by: 1 } as const
    const { pull } = await setUp({ faults: [fault, fault, fault] })
    await expect(pull()).rejects.toThrow()
  })

  test('says nothing for too long is asked again', async () => {
    const { part, pull, ranges } = await setUp({
      etag: '"v1"',
      faults: [{ kind: 'stall', after: 1000 }],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, 'bytes=1000-'])
  })

  test('is slow but steady is waited for', async () => {
    const { pull } = await setUp({ pauseMs: 30 })
    expect(await pull()).toEqual(whole)
  })

  test('is slow beyond all measure is given up', async () => {
    const { pull } = await setUp({ pauseMs: 100 }, { timeoutMs: 250 })
    await expect(pull()).rejects.toThrow('it took longer than 250 ms')
  })

  test('does not know ranges sends everything again', async () => {
    const { part, pull } = await setUp({
      etag: '"v1"',
      faults: [{ kind: 'cut', after: 5000 }, { kind: 'ignoreRange' }],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
  })

  test.each([
    ['another range than it was asked for', { later: 1, longer: 0 }],
    ['a range of another file', { later: 0, longer: 1 }],
  ])('sends %s is asked again, for everything', async (_, other) => {
    const { part, pull, ranges } = await setUp({
      etag: '"v1"',
      faults: [
        { kind: 'cut', after: 5000 },
        { kind: 'otherRange', ...other },
      ],
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, 'bytes=5000-', undefined])
  })

  test.each([429, 500, 502, 503])('answers %i for a moment is asked again', async (status) => {
    const { pull, host } = await setUp({ faults: [{ kind: 'status', status }] })
    expect(await pull()).toEqual(whole)
    expect(host.asked).toHaveLength(2)
  })

  test('asks to wait is waited for', async () => {
    const { pull } = await setUp({
      faults: [{ kind: 'status', status: 429, headers: { 'retry-after': '1' } }],
    })
    const startedAtMs = performance.now()
    expect(await pull()).toEqual(whole)
    expect(performance.now() - startedAtMs).toBeGreaterThan(950)
  })

  test.each([401, 403, 404, 410])('answers %i is asked once', async (status) => {
    const { host, part, pull } = await setUp({ faults: [{ kind: 'status', status }] })
    expect(await pull()).toEqual({ kind: 'refused', status })
    expect(host.asked).toHaveLength(1)
    expect(existsSync(part)).toBe(false)
  })

  test('announces too much is not read', async () => {
    const { host, part, pull } = await setUp({ faults: [{ kind: 'stall', after: 0 }] })
    await expect(pull({ maxBytes: 99_999 })).rejects.toMatchObject({
      code: 'lora_invalid',
      message: 'Expected a file of at most 99999 bytes but it is larger',
    })
    expect(host.asked).toHaveLength(1)
    expect(existsSync(part)).toBe(false)
  })

  test('sends too much without saying so is cut off', async () => {
    const { host, part, pull } = await setUp()
    let open = true
    host.on('/lora', (_, response) => {
      response.on('close', () => {
        open = false
      })
      const write = () =>
        void (open && response.write(Buffer.alloc(2 ** 14), () => setImmediate(write)))
      write()
    })
    await expect(pull()).rejects.toThrow('Expected a file of at most 1048576 bytes')
    expect(existsSync(part)).toBe(false)
    await expect.poll(() => open).toBe(false)
  })

  test('redirects for ever is refused', async () => {
    const { host, pull } = await setUp()
    host.redirect('/lora', '/lora')
    await expect(pull()).rejects.toThrow(/^Expected at most 5 redirects/)
    expect(host.asked).toHaveLength(6)
  })

  test.each(['http://10.0.0.1/lora', 'http://169.254.169.254/latest', 'http://[::1]/'])(
    'redirects to %s is refused',
    async (to) => {
      const { host, pull } = await setUp()
      host.redirect('/lora', to)
      await expect(pull()).rejects.toThrow(/^Expected the URL of a public server but/)
    },
  )
})

test('a token goes to its own server, not to the one that it redirects to', async () => {
  const { host, pull } = await setUp()
  const other = await startHost()
  other.file('/file', bytes)
  host.redirect('/lora', '/hop')
  host.redirect('/hop', `${other.origin}/file`)
  expect(await pull({ bearer: 'secret' })).toEqual(whole)
  expect(host.asked.map(({ headers }) => headers.authorization)).toEqual([
    'Bearer secret',
    'Bearer secret',
  ])
  expect(other.asked.map(({ headers }) => headers.authorization)).toEqual([undefined])
})

test('a token does not come back when the other server redirects back', async () => {
  const { host, pull } = await setUp()
  const other = await startHost()
  host.redirect('/lora', `${other.origin}/back`)
  other.redirect('/back', `${host.origin}/file`)
  host.file('/file', bytes)
  expect(await pull({ bearer: 'secret' })).toEqual(whole)
  expect(host.askedFor('/file')[0]!.headers.authorization).toBeUndefined()
})

test('a canceled download keeps what came, for the next one', async () => {
  const { part, pull, ranges } = await setUp({
    etag: '"v1"',
    faults: [{ kind: 'stall', after: 7000 }],
  })
  const canceling = new AbortController()
  const onProgress = () => canceling.abort()
  await expect(pull({ signal: canceling.signal, onProgress })).rejects.toMatchObject({
    code: 'canceled',
  })
  expect(readFileSync(part)).toHaveLength(7000)
  expect(await pull()).toEqual(whole)
  expect(ranges()).toEqual([undefined, 'bytes=7000-'])
})

describe('a file in a content encoding', () => {
  const packed = gzipSync(bytes)
  const encoded = { 'content-encoding': 'gzip', etag: '"v1"', 'content-length': packed.length }

  test('arrives decoded, with the hash of the file', async () => {
    const { host, part, pull } = await setUp()
    host.on('/lora', (_, response) => response.writeHead(200, encoded).end(packed))
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
  })

  test('starts over after a broken connection: ranges count encoded bytes', async () => {
    const { host, part, pull, ranges } = await setUp()
    let isFirst = true
    host.on('/lora', (_, response) => {
      response.writeHead(200, encoded)
      if (!isFirst) return response.end(packed)
      isFirst = false
      response.write(packed.subarray(0, 50_000), () => response.destroy())
    })
    expect(await pull()).toEqual(whole)
    expect(readFileSync(part)).toEqual(bytes)
    expect(ranges()).toEqual([undefined, undefined])
  })

  test('is refused and removed when it decodes to more than is allowed', async () => {
    const { host, part, pull } = await setUp()
    const bomb = gzipSync(Buffer.alloc(2 ** 25))
    host.on('/lora', (_, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb),
    )
    await expect(pull()).rejects.toThrow('Expected a file of at most 1048576 bytes')
    expect(existsSync(part)).toBe(false)
  })
})

describe('a server that sends a byte now and then', () => {
  const drip = (response: ServerResponse) => {
    response.writeHead(200, { 'content-length': bytes.length })
    const timer = setInterval(() => response.write('x'), 20)
    response.on('close', () => clearInterval(timer))
  }

  test('is left after as many attempts as one that sends nothing', async () => {
    const { host, pull } = await setUp({}, { minBytesPerSecond: 1024, timeoutMs: 600_000 })
    host.on('/lora', (_, response) => drip(response))
    await expect(pull()).rejects.toThrow('it came at less than 1024 bytes a second')
    expect(host.asked).toHaveLength(3)
  })

  test('is read on where the policy sets no minimum', async () => {
    const { host, pull } = await setUp({}, { timeoutMs: 1000 })
    host.on('/lora', (_, response) => drip(response))
    await expect(pull()).rejects.toThrow('it took longer than 1000 ms')
    expect(host.asked).toHaveLength(1)
  })
})
