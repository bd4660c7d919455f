/** Files that servers send in a content encoding without being asked for one. */
import { createServer, type IncomingHttpHeaders, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as zlib from 'node:zlib'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createMediaClient } from '../../src/net/fetchMedia.js'

const file = Buffer.from('PNG'.repeat(10_000))
const { zstdCompressSync } = zlib as { zstdCompressSync?: (bytes: Buffer) => Buffer }

async function serve(listener: RequestListener) {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/a.png`
}

async function fetchEncoded(encoding: string, body: Buffer, maxBytes = 2 ** 20) {
  const url = await serve((_, response) => {
    response.writeHead(200, { 'content-encoding': encoding, 'content-length': body.length })
    response.end(body)
  })
  const allowAddress = (address: string) => address === '127.0.0.1'
  const client = createMediaClient({ allowAddress, maxBytes, timeoutMs: 10_000 })
  onTestFinished(() => client.close())
  return Buffer.from(await client.fetch(url))
}

describe('a file in an encoding', () => {
  test.each<[string, Buffer]>([
    ['gzip', zlib.gzipSync(file)],
    ['GZip', zlib.gzipSync(file)],
    ['x-gzip', zlib.gzipSync(file)],
    [
      'gzip',
      Buffer.concat([zlib.gzipSync(file.subarray(0, 99)), zlib.gzipSync(file.subarray(99))]),
    ],
    ['deflate', zlib.deflateSync(file)],
    ['deflate', zlib.deflateSync(file, { level: 0 })],
    ['deflate', zlib.deflateRawSync(file)],
    ['br', zlib.brotliCompressSync(file)],
    ['identity', file],
    ['', file],
    ['gzip, identity', zlib.gzipSync(file)],
    ['gzip, br', zlib.brotliCompressSync(zlib.gzipSync(file))],
    ['br , gzip', zlib.gzipSync(zlib.brotliCompressSync(file))],
    ...(zstdCompressSync ? [['zstd', zstdCompressSync(file)] as [string, Buffer]] : []),
  ])('%j is the file', async (encoding, body) => {
    expect(await fetchEncoded(encoding, body)).toEqual(file)
  })

  test.each(['compress', 'aes128gcm', 'gzip, gzip, gzip', ...(zstdCompressSync ? [] : ['zstd'])])(
    '%s is refused by its name',
    async (encoding) => {
      await expect(fetchEncoded(encoding, file)).rejects.toMatchObject({
        code: 'invalid_input',
        message: expect.stringMatching(
          new RegExp(`without a content encoding or in gzip, deflate, br.* received ${encoding}$`),
        ),
      })
    },
  )

  test.each<[string, Buffer]>([
    ['gzip', zlib.gzipSync(Buffer.alloc(2 ** 26))],
    ['deflate', zlib.deflateSync(Buffer.alloc(2 ** 26))],
    ['deflate', zlib.deflateRawSync(Buffer.alloc(2 ** 26))],
    ['br', zlib.brotliCompressSync(Buffer.alloc(2 ** 26))],
    // The file is short, and the form between the two encodings is long.
    ['gzip, gzip', zlib.gzipSync(Buffer.concat(Array(200_000).fill(zlib.gzipSync(''))))],
  ])('%s is bounded by what it decodes to', async (encoding, bomb) => {
    expect(bomb.length).toBeLessThan(2 ** 20)
    await expect(fetchEncoded(encoding, bomb)).rejects.toThrow('Expected a file of at most 1048576')
  })

  test('gzip is bounded by what is sent, too, if it decodes to nothing', async () => {
    const empty = Buffer.concat(Array(2000).fill(zlib.gzipSync('')))
    const url = await serve((_, response) => {
      response.writeHead(200, { 'content-encoding': 'gzip' })
      const write = () => {
        if (!response.destroyed) response.write(empty, () => setImmediate(write))
      }
      write()
    })
    const allowAddress = () => true
    const client = createMediaClient({ allowAddress, maxBytes: 2 ** 20, timeoutMs: 30_000 })
    onTestFinished(() => client.close())
    await expect(client.fetch(url)).rejects.toThrow('Expected a file of at most 1048576 bytes')
  })

  test.each<[string, Buffer]>([
    ['gzip', file],
    ['gzip', zlib.gzipSync(file).subarray(0, 40)],
    ['deflate', zlib.deflateSync(file).subarray(0, 40)],
    ['br', file],
  ])('%s that is damaged or cut short is an error', async (encoding, body) => {
    await expect(fetchEncoded(encoding, body)).rejects.toMatchObject({
      code: 'invalid_input',
      message: expect.stringMatching(/^Could not fetch http:\/\/127\.0\.0\.1:\d+\/a\.png: ./),
    })
  })
})

test('no encoding is asked for', async () => {
  let headers: IncomingHttpHeaders = {}
  const url = await serve((request, response) => {
    headers = request.headers
    response.end(file)
  })
  const client = createMediaClient({ allowAddress: () => true })
  onTestFinished(() => client.close())
  await client.fetch(url)
  expect(headers['accept-encoding']).toBe('identity')
})
