/** Headers that make a request ambiguous or its body unreadable. */
import { type AddressInfo, connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { buildTestApp } from './testApp.js'

const body = JSON.stringify({ input: { prompt: 'p' } })

describe('a compressed body', () => {
  test.each([
    ['/predictions', 'application/json'],
    ['/v1/models/fluxd/flux/predictions', 'application/json'],
    ['/v1/files', 'multipart/form-data; boundary=x'],
  ])('is a 415 of %s that says so', async (url, type) => {
    const { app } = await buildTestApp()
    for (const encoding of ['gzip', 'br', 'zstd', 'gzip, identity']) {
      const headers = { 'content-type': type, 'content-encoding': encoding }
      const reply = await app.inject({ method: 'POST', url, headers, payload: gzipSync(body) })
      expect([reply.statusCode, reply.headers['accept-encoding']]).toEqual([415, 'identity'])
      expect(reply.json().detail).toBe(
        `Expected a body without content-encoding but received ${encoding}`,
      )
    }
  })

  test('is accepted as identity', async () => {
    const { app } = await buildTestApp()
    const headers = { 'content-type': 'application/json', 'content-encoding': 'Identity' }
    const url = '/v1/models/fluxd/flux/predictions'
    const reply = await app.inject({ method: 'POST', url, headers, payload: body })
    expect(reply.statusCode).toBe(201)
  })
})

describe('Host', () => {
  test.each([
    [['localhost'], '200'],
    [['localhost', 'localhost'], '400'],
    [['localhost', 'evil.example'], '400'],
  ])('%j is a %s', async (hosts, status) => {
    const { app } = await buildTestApp()
    await app.listen({ host: '127.0.0.1', port: 0 })
    const { port } = app.server.address() as AddressInfo
    const lines = hosts.map((host) => `Host: ${host}\r\n`).join('')
    expect(await sendRaw(port, `GET /livez HTTP/1.1\r\n${lines}Connection: close\r\n\r\n`)).toMatch(
      `HTTP/1.1 ${status} `,
    )
  })
})

/** The reply to `text`, as it comes over the wire. */
function sendRaw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let reply = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.on('data', (chunk) => {
      reply += chunk.toString()
    })
    socket.on('end', () => resolve(reply))
    socket.on('error', reject)
  })
}
