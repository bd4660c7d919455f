import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import Fastify from 'fastify'
import { expect, onTestFinished, test, vi } from 'vitest'
import { type EventStream, formatEvent, openEventStream } from '../../../src/server/http/sse.js'

test.each([
  [{ event: 'done', data: '{}', id: '1:2' }, 'id: 1:2\nevent: done\ndata: {}\n\n'],
  [{ event: 'logs', data: 'a\n' }, 'event: logs\ndata: a\ndata: \n\n'],
  [{ event: 'logs', data: 'a\r\nb\rc' }, 'event: logs\ndata: a\ndata: b\ndata: c\n\n'],
])('%j is written line by line', (event, text) => {
  expect(formatEvent(event)).toBe(text)
})

/** A server with one stream, told of when it closes. */
async function startStream(heartbeat?: number) {
  const app = Fastify()
  const closed = vi.fn()
  const opened: EventStream[] = []
  app.get('/', (_request, reply) => {
    opened.push(openEventStream(reply, closed, heartbeat))
    return reply
  })
  await app.listen({ port: 0 })
  onTestFinished(() => app.close())
  const { port } = app.server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}/`, port, closed, opened }
}

/** A client that has got the head of the stream and that no pool will connect again. */
async function connectRaw(port: number) {
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  socket.write('GET / HTTP/1.1\r\nhost: a\r\n\r\n')
  await once(socket, 'data')
  return socket
}

test('the content type is exactly text/event-stream', async () => {
  const { url, opened } = await startStream()
  const reply = await fetch(url)
  expect(reply.headers.get('content-type')).toBe('text/event-stream')
  expect(reply.headers.get('cache-control')).toBe('no-store')
  opened[0]!.send({ event: 'done', data: '{}' })
  opened[0]!.end()
  expect(await reply.text()).toBe(': open\n\nevent: done\ndata: {}\n\n')
})

test('comments keep an idle stream open', async () => {
  const { url, opened } = await startStream(10)
  const reply = await fetch(url)
  setTimeout(() => opened[0]!.end(), 100)
  expect(await reply.text()).toMatch(/^: open\n\n(: keep-alive\n\n){2,}$/)
})

test('a client that goes away is noticed once, and what is sent after it is dropped', async () => {
  const { port, closed, opened } = await startStream()
  const socket = await connectRaw(port)
  socket.destroy()
  await vi.waitFor(() => expect(closed).toHaveBeenCalledTimes(1))
  opened[0]!.send({ event: 'logs', data: 'late' })
  opened[0]!.end()
  expect(closed).toHaveBeenCalledTimes(1)
})

test('a client that does not read misses what it may miss', async () => {
  const { port, opened } = await startStream()
  const socket = await connectRaw(port)
  socket.pause()
  const [stream] = opened
  stream!.send({ event: 'output', data: 'x'.repeat(20_000_000) })
  await new Promise((resolve) => setTimeout(resolve, 50))
  stream!.sendIfKeepingUp({ event: 'preview', data: 'missed' })
  stream!.send({ event: 'done', data: '{}' })
  stream!.end()
  let received = ''
  socket.on('data', (chunk) => {
    received += chunk.toString()
  })
  socket.resume()
  await vi.waitFor(() => expect(received).toContain('event: done'), 10_000)
  expect(received).not.toContain('missed')
})
