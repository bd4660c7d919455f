import type { AddressInfo } from 'node:net'
import { describe, expect, test, vi } from 'vitest'
import { wantsEvents } from '../../../../src/server/http/cog/respond.js'
import { createGate } from '../../../gate.js'
import { buildTestApp } from '../testApp.js'

const input = { prompt: 'p', seed: 7, num_inference_steps: 2, num_outputs: 2 }
const headers = { accept: 'text/event-stream' }

type Event = { readonly id: string; readonly event: string; readonly data: unknown }

const parse = (text: string): Event[] =>
  text
    .split('\n\n')
    .filter((block) => block.includes('event:'))
    .map((block) => {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)![1]!
      return { id: field('id'), event: field('event'), data: JSON.parse(field('data')) }
    })

test('a prediction can be followed from its start to its end', async () => {
  const { app } = await buildTestApp()
  const reply = await app.inject({
    method: 'POST',
    url: '/predictions',
    payload: { input },
    headers,
  })
  expect(reply.headers['content-type']).toBe('text/event-stream')
  const events = parse(reply.body)
  const kinds = events.map(({ event }) => event)
  expect(kinds.filter((kind) => kind !== 'log' && kind !== 'metric')).toEqual([
    'start',
    'output',
    'output',
    'completed',
  ])
  const dataOf = (kind: string) =>
    events.flatMap(({ event, data }) => (event === kind ? [data] : []))
  expect(dataOf('start')).toEqual([{ id: expect.any(String), status: 'starting' }])
  expect(dataOf('output')).toEqual(
    [0, 1].map((index) => ({ chunk: expect.stringMatching(/^data:image\/webp;base64,/), index })),
  )
  expect(dataOf('log')).toContainEqual({ source: 'stdout', data: 'Using seed: 7\n' })
  expect(dataOf('metric')).toContainEqual({
    name: 'predict_time',
    value: expect.any(Number),
    mode: 'replace',
  })
  expect(dataOf('completed')).toMatchObject([{ status: 'succeeded', input, output: [{}, {}] }])
})

test('a prediction that fails is told as completed with its error', async () => {
  const { app } = await buildTestApp({ failure: new Error('out of memory') })
  const reply = await app.inject({
    method: 'POST',
    url: '/predictions',
    payload: { input },
    headers,
  })
  expect(parse(reply.body).at(-1)).toMatchObject({
    event: 'completed',
    data: { status: 'failed', error: 'out of memory', output: null },
  })
})

describe('a client that hangs up', () => {
  async function follow(method: 'POST' | 'PUT', url: string) {
    const gate = createGate()
    const { app, engine } = await buildTestApp({ gate: gate.promise })
    await app.listen({ host: '127.0.0.1', port: 0 })
    const { port } = app.server.address() as AddressInfo
    const leaving = new AbortController()
    const reply = await fetch(`http://127.0.0.1:${port}${url}`, {
      method,
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ input }),
      signal: leaving.signal,
    })
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    await reply.body!.getReader().read()
    leaving.abort()
    return { app, gate, engine }
  }

  test('cancels what it POSTed', async () => {
    const { app, engine } = await follow('POST', '/predictions')
    await vi.waitFor(() => expect(engine.canceledSeeds).toEqual([7]))
    expect((await app.predictions.list({ limit: 1 })).predictions).toMatchObject([
      { status: 'canceled' },
    ])
  })

  test('finds what it PUT again, with all its events', async () => {
    const { app, gate } = await follow('PUT', '/predictions/mine')
    await new Promise((resolve) => setTimeout(resolve, 30))
    gate.open()
    const reply = await app.inject({
      method: 'PUT',
      url: '/predictions/mine',
      payload: { input },
      headers,
    })
    const events = parse(reply.body)
    expect(events[0]).toMatchObject({ event: 'start', data: { id: 'mine' } })
    expect(events.at(-1)).toMatchObject({ event: 'completed', data: { status: 'succeeded' } })
  })
})

test('a server that closes ends its streams', async () => {
  const { app, engine } = await buildTestApp({ gate: new Promise(() => {}) })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const reply = await fetch(`http://127.0.0.1:${port}/predictions`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({ input }),
  })
  await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
  const text = reply.text()
  await app.close()
  expect(await text).toContain('event: start')
})

test.each([
  ['text/event-stream', true],
  ['Text/Event-Stream; charset=utf-8', true],
  ['text/event-stream, */*;q=0.1', true],
  ['text/event-stream, application/json;q=0.5', true],
  ['application/json, text/event-stream', false],
  ['application/json, text/event-stream;q=0.5', false],
  ['text/event-stream;q=0', false],
  ['*/*', false],
  [undefined, false],
])('Accept: %s asks for events: %s', (accept, expected) => {
  expect(wantsEvents({ headers: accept === undefined ? {} : { accept } })).toBe(expected)
})
