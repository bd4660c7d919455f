import { connect } from 'node:net'
import type { Prediction } from 'replicate'
import { describe, expect, test, vi } from 'vitest'
import { startServer, type TestServer } from '../../../conformance/server.js'
import { createFakeEngine } from '../../../fakeEngine.js'
import { createGate } from '../../../gate.js'

type Event = { readonly id: string; readonly event: string; readonly data: string }

const input = { prompt: 'p', num_inference_steps: 2 }

async function create({ replicate }: TestServer): Promise<{ id: string; path: string }> {
  const { id, urls } = await replicate.predictions.create({ model: 'fluxd/flux', input })
  return { id, path: new URL(urls.stream!).pathname }
}

/** Reads the whole stream. */
async function read({ request }: TestServer, path: string, lastEventId?: string): Promise<Event[]> {
  const headers: Record<string, string> = { accept: 'text/event-stream' }
  if (lastEventId !== undefined) headers['last-event-id'] = lastEventId
  return parseEvents((await request(path, { headers })).text)
}

const parseEvents = (text: string): Event[] =>
  text
    .split('\n\n')
    .filter((part) => part.startsWith('id: '))
    .map(parseEvent)

function parseEvent(text: string): Event {
  const read = (name: string) =>
    text
      .split('\n')
      .filter((line) => line.startsWith(`${name}: `))
      .map((line) => line.slice(name.length + 2))
      .join('\n')
  return { id: read('id'), event: read('event'), data: read('data') }
}

test('who comes late sees everything from the beginning', async () => {
  const server = await startServer()
  const { id, path } = await create(server)
  const live = await read(server, path)
  await vi.waitFor(async () =>
    expect((await server.replicate.predictions.get(id)).status).toBe('succeeded'),
  )
  expect(await read(server, path)).toEqual(live)
})

test('who comes back goes on after the last event it has seen', async () => {
  const server = await startServer()
  const { path } = await create(server)
  const all = await read(server, path)
  for (const at of [0, 2, all.length - 2])
    expect(await read(server, path, all[at]!.id)).toEqual(all.slice(at + 1))
})

test('who has seen the end is told again that it is one', async () => {
  const server = await startServer()
  const { path } = await create(server)
  const end = (await read(server, path)).at(-1)!
  expect(await read(server, path, end.id)).toEqual([end])
})

test('an id that is none of ours is as good as none', async () => {
  const server = await startServer()
  const { path } = await create(server)
  const all = await read(server, path)
  expect(await read(server, path, '42')).toEqual(all)
})

test('a failure has an error before its end, and the log has told how it came', async () => {
  const engine = createFakeEngine({ failure: new Error('burnt') })
  const server = await startServer({ engine })
  const { path } = await create(server)
  const events = await read(server, path)
  expect(events.slice(-2).map(({ event, data }) => [event, JSON.parse(data)])).toEqual([
    ['error', { detail: 'burnt' }],
    ['done', { reason: 'error' }],
  ])
})

test('pictures are told as the server tells them elsewhere', async () => {
  const server = await startServer({ environment: { FLUXD_OUTPUT_MODE: 'data' } })
  const { path } = await create(server)
  const output = (await read(server, path)).find(({ event }) => event === 'output')
  expect(output!.data).toMatch(/^data:image\/webp;base64,/)
})

describe('a server that closes', () => {
  test('ends the streams of those who watch', async () => {
    const gate = createGate()
    const server = await startServer({ engine: createFakeEngine({ gate: gate.promise }) })
    const { path } = await create(server)
    const watching = await fetch(server.url + path)
    await server.close()
    expect(parseEvents(await watching.text()).map(({ event }) => event)).not.toContain('done')
  })

  test('answers those who wait', async () => {
    const server = await startServer({
      engine: createFakeEngine({ gate: new Promise(() => {}) }),
    })
    const waiting = server.request('/v1/models/fluxd/flux/predictions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', prefer: 'wait' },
      body: JSON.stringify({ input }),
    })
    await vi.waitFor(() => expect(server.engine.plans).toHaveLength(1))
    await server.close()
    const { status, body } = await waiting
    expect(status).toBe(202)
    expect(body as Prediction).toMatchObject({ status: 'starting', output: null })
  })
})

test('replicate-go is given a stream without logs, which it does not know', async () => {
  const server = await startServer()
  const { body } = await server.create({ input }, { prefer: 'wait', 'user-agent': 'replicate/go' })
  const { pathname, search } = new URL(body.urls.stream)
  const kinds = (await read(server, pathname + search)).map(({ event }) => event)
  expect(kinds).toEqual(['output', 'done'])
  expect((await read(server, pathname)).map(({ event }) => event)).toContain('logs')
})

test('HEAD ends at once, also while the prediction goes on', async () => {
  const server = await startServer({ engine: createFakeEngine({ gate: new Promise(() => {}) }) })
  const { path } = await create(server)
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  const host = 'host: localhost\r\n\r\n'
  socket.write(`HEAD ${path} HTTP/1.1\r\n${host}GET /livez HTTP/1.1\r\n${host}`)
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk
  })
  // Replies on a connection come one after the other.
  await vi.waitFor(() => expect(text).toContain('{"status":"alive"}'))
  expect(text).toContain('text/event-stream')
  socket.destroy()
})
