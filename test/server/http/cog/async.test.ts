/** Predictions that outlive their request: 202, PUT, cancel, busy. */
import { describe, expect, test, vi } from 'vitest'
import { createGate } from '../../../gate.js'
import { buildTestApp, type TestApp } from '../testApp.js'

const input = { prompt: 'p', seed: 7, num_inference_steps: 2 }
const respondAsync = { prefer: 'respond-async' }

const send = (
  { app }: TestApp,
  method: 'POST' | 'PUT',
  url: string,
  payload: object = { input },
  headers: Record<string, string> = {},
) => app.inject({ method, url, payload, headers })

const done = (test: TestApp, id: string) => test.app.predictions.waitUntilTerminal(id)

describe('Prefer: respond-async', () => {
  test('answers 202 at once, with an id to ask for', async () => {
    const gate = createGate()
    const test = await buildTestApp({ gate: gate.promise })
    const reply = await send(test, 'POST', '/predictions', { input }, respondAsync)
    expect(reply.statusCode).toBe(202)
    expect(reply.json()).toMatchObject({ input, output: null, status: 'starting', logs: '' })
    // How long it will have taken is not known yet.
    expect(reply.json().metrics).toEqual({})
    gate.open()
    const prediction = await done(test, reply.json().id)
    expect(prediction).toMatchObject({ status: 'succeeded', output: [{ name: 'out-0.webp' }] })
  })

  test.each(['respond-async, wait=5', 'Respond-Async', 'wait'])(
    'is compared exactly: %s is answered with the end',
    async (prefer) => {
      const reply = await send(await buildTestApp(), 'POST', '/predictions', { input }, { prefer })
      expect(reply.statusCode).toBe(200)
      expect(reply.json().status).toBe('succeeded')
    },
  )
})

describe('PUT /predictions/{id}', () => {
  test('makes a prediction with that id', async () => {
    const reply = await send(await buildTestApp(), 'PUT', '/predictions/mine')
    expect(reply.statusCode).toBe(200)
    expect(reply.json()).toMatchObject({ id: 'mine', status: 'succeeded' })
  })

  test('again is a 202 with the state while it is in flight, the same body or not', async () => {
    const gate = createGate()
    const test = await buildTestApp({ gate: gate.promise })
    await send(test, 'PUT', '/predictions/mine', { input }, respondAsync)
    await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
    for (const payload of [{ input }, { input: { prompt: 'other' } }]) {
      const reply = await send(test, 'PUT', '/predictions/mine', payload)
      expect(reply.statusCode).toBe(202)
      expect(reply.json()).toMatchObject({ id: 'mine', input, status: 'processing' })
    }
    gate.open()
    await done(test, 'mine')
    expect(test.engine.plans).toHaveLength(1)
  })

  test('again is a 200 with the finished prediction, which does not run again', async () => {
    const test = await buildTestApp()
    const first = await send(test, 'PUT', '/predictions/mine')
    const second = await send(test, 'PUT', '/predictions/mine')
    expect(second.statusCode).toBe(200)
    expect(second.json()).toEqual(first.json())
    expect(test.engine.plans).toHaveLength(1)
  })

  test('twice at the same time is one prediction', async () => {
    const test = await buildTestApp()
    const replies = await Promise.all(
      [1, 2, 3].map(() => send(test, 'PUT', '/predictions/mine', { input }, respondAsync)),
    )
    for (const reply of replies) expect(reply.statusCode).toBe(202)
    await done(test, 'mine')
    expect(test.engine.plans).toHaveLength(1)
  })

  test('twice at the same time is answered twice with its end', async () => {
    const test = await buildTestApp()
    const replies = await Promise.all(
      [1, 2, 3].map(() => send(test, 'PUT', '/predictions/mine', { input })),
    )
    for (const reply of replies)
      expect([reply.statusCode, reply.json().status]).toEqual([200, 'succeeded'])
    expect(test.engine.plans).toHaveLength(1)
  })

  test('with another id in its body is a 422', async () => {
    const reply = await send(await buildTestApp(), 'PUT', '/predictions/mine', {
      id: 'yours',
      input,
    })
    expect(reply.statusCode).toBe(422)
    expect(reply.json()).toEqual({
      detail: [
        {
          loc: ['body', 'id'],
          msg: 'prediction ID must match the ID supplied in the URL',
          type: 'value_error',
        },
      ],
    })
  })
})

test.each(['a b', 'a/b', 'a\nb', '', 'x'.repeat(201)])('%j is no id', async (id) => {
  const reply = await send(await buildTestApp(), 'POST', '/predictions', { id, input })
  expect(reply.statusCode).toBe(422)
  expect(reply.json().detail).toMatchObject([{ loc: ['body', 'id'], type: 'value_error' }])
})

test('POST with an id that is taken is a 409: it must not be answered with another picture', async () => {
  const test = await buildTestApp()
  await send(test, 'POST', '/predictions', { id: 'mine', input })
  const reply = await send(test, 'POST', '/predictions', { id: 'mine', input })
  expect(reply.statusCode).toBe(409)
  expect(reply.json()).toEqual({ detail: 'There is a prediction mine already' })
})

describe('Idempotency-Key', () => {
  const again = { ...respondAsync, 'idempotency-key': 'again' }

  test.each([
    ['without an id', { input }],
    ['with an id of its own', { id: 'mine', input }],
  ])('makes a POST %s that comes again the same prediction', async (_, payload) => {
    const test = await buildTestApp()
    const replies = await Promise.all(
      [1, 2, 3].map(() => send(test, 'POST', '/predictions', payload, again)),
    )
    const ids = new Set(replies.map((reply) => reply.json().id))
    expect(ids.size).toBe(1)
    const { 'idempotency-key': key } = again
    const reply = await send(test, 'POST', '/predictions', payload, { 'idempotency-key': key })
    expect(reply.json()).toMatchObject({ id: [...ids][0], status: 'succeeded' })
    expect(test.engine.plans).toHaveLength(1)
  })

  test('is a 409 with another input, and a 422 when it is too long', async () => {
    const test = await buildTestApp()
    await send(test, 'POST', '/predictions', { input }, again)
    const other = { input: { ...input, seed: 8 } }
    const reply = await send(test, 'POST', '/predictions', other, again)
    expect([reply.statusCode, reply.json()]).toEqual([
      409,
      {
        detail:
          'Expected the request that Idempotency-Key again was used for but received another one',
      },
    ])
    const tooLong = { 'idempotency-key': 'x'.repeat(256) }
    const refused = await send(test, 'POST', '/predictions', { input }, tooLong)
    expect([refused.statusCode, refused.json()]).toEqual([
      422,
      { detail: 'Expected an Idempotency-Key of 1 to 255 characters but received 256' },
    ])
  })

  test('lets a prediction go on whose client hangs up: it will ask again', async () => {
    const gate = createGate()
    const test = await buildTestApp({ gate: gate.promise })
    const origin = await test.app.listen({ port: 0, host: '127.0.0.1' })
    const hangUp = new AbortController()
    const post = (signal?: AbortSignal) =>
      fetch(`${origin}/predictions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': 'again' },
        body: JSON.stringify({ input }),
        ...(signal && { signal }),
      })
    const first = post(hangUp.signal).catch(() => 'hung up')
    await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
    hangUp.abort()
    expect(await first).toBe('hung up')
    const second = post()
    await new Promise((resolve) => setTimeout(resolve, 50))
    gate.open()
    expect(await (await second).json()).toMatchObject({ status: 'succeeded' })
    expect(test.engine.plans).toHaveLength(1)
  })
})

test('a prediction that is not over says where it stands and, once that is known, for how long', async () => {
  const gates = [createGate(), createGate()]
  let gate = gates[0]!
  const test = await buildTestApp({
    get gate() {
      return gate.promise
    },
  })
  // One step each, so that each waits at one gate.
  const wish = { input: { ...input, num_inference_steps: 1 } }
  const put = (id: string) => send(test, 'PUT', `/predictions/${id}`, wish, respondAsync)
  const standing = ({ headers }: Awaited<ReturnType<typeof put>>) => [
    headers['fluxd-queue-position'],
    headers['fluxd-eta-seconds'],
  ]
  expect(standing(await put('first'))).toEqual(['0', undefined])
  const logs = async () => (await test.app.predictions.get('first'))?.logs
  await vi.waitFor(async () => expect(await logs()).toContain('1/1'))
  expect(standing(await put('second'))).toEqual(['1', undefined])
  expect(standing(await put('first'))).toEqual(['0', undefined])
  gate = gates[1]!
  gates[0]!.open()
  await done(test, 'first')
  expect(standing(await put('first'))).toEqual([undefined, undefined])
  const [position, eta] = standing(await put('third'))
  expect(position).toBe('1')
  // The fake engine takes no time.
  expect(eta).toBe('0')
  gates[1]!.open()
})

describe('POST /predictions/{id}/cancel', () => {
  test('ends what runs and what waits with an empty object', async () => {
    const test = await buildTestApp({ gate: new Promise(() => {}) })
    for (const id of ['running', 'waiting'])
      await send(test, 'PUT', `/predictions/${id}`, { input }, respondAsync)
    await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
    for (const id of ['waiting', 'running']) {
      const reply = await send(test, 'POST', `/predictions/${id}/cancel`, undefined, {
        'content-type': 'application/json',
      })
      expect([reply.statusCode, reply.json()]).toEqual([200, {}])
      expect(await done(test, id)).toMatchObject({ status: 'canceled' })
    }
    expect(test.engine.plans).toHaveLength(1)
  })

  test('is a 404 with an empty object for one that is over or was never there', async () => {
    const test = await buildTestApp()
    await send(test, 'PUT', '/predictions/mine')
    for (const id of ['mine', 'unknown']) {
      const reply = await send(test, 'POST', `/predictions/${id}/cancel`)
      expect([reply.statusCode, reply.json()]).toEqual([404, {}])
    }
  })
})

test('FLUXD_COG_BUSY=409 refuses what would have to wait', async () => {
  const gate = createGate()
  const test = await buildTestApp({ gate: gate.promise }, undefined, { FLUXD_COG_BUSY: '409' })
  await test.app.ready()
  const first = send(test, 'POST', '/predictions')
  await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
  const reply = await send(test, 'POST', '/predictions')
  expect(reply.statusCode).toBe(409)
  expect(reply.json()).toEqual({ detail: 'Already running a prediction' })
  gate.open()
  expect((await first).json().status).toBe('succeeded')
  expect((await send(test, 'POST', '/predictions')).statusCode).toBe(200)
})

test('FLUXD_COG_BUSY=409 refuses while the model is loading', async () => {
  const loading = new Promise<void>(() => {})
  const test = await buildTestApp({ loading }, undefined, { FLUXD_COG_BUSY: '409' })
  expect((await send(test, 'POST', '/predictions')).statusCode).toBe(409)
})

test('a full queue is a 429 that says when to come again', async () => {
  const test = await buildTestApp({ gate: new Promise(() => {}) }, undefined, {
    FLUXD_MAX_QUEUE: '2',
  })
  const create = () => send(test, 'POST', '/predictions', { input }, respondAsync)
  expect((await create()).statusCode).toBe(202)
  await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
  for (let waiting = 0; waiting < 2; waiting++) expect((await create()).statusCode).toBe(202)
  const reply = await create()
  expect(reply.statusCode).toBe(429)
  expect(reply.json()).toEqual({ detail: 'All 2 places of the queue are taken' })
  expect(Number(reply.headers['retry-after'])).toBeGreaterThanOrEqual(1)
})

test('a store that is full is a 507 that says so, and nothing is admitted', async () => {
  const test = await buildTestApp({}, undefined, { FLUXD_FILES_BYTES: '1MiB' })
  const reply = await send(test, 'POST', '/predictions')
  expect(reply.statusCode).toBe(507)
  expect(reply.json().detail).toBe(
    'Expected room for more files but the quota of 1048576 bytes is reached',
  )
  expect(reply.headers['retry-after']).toBe('60')
  expect((await test.app.predictions.list({ limit: 1 })).predictions).toEqual([])
})

test('a server that drains admits nothing more and ends what runs', async () => {
  const gate = createGate()
  const test = await buildTestApp({ gate: gate.promise })
  await send(test, 'PUT', '/predictions/mine', { input }, respondAsync)
  await vi.waitFor(() => expect(test.engine.plans).toHaveLength(1))
  const drained = test.app.predictions.drain()
  const reply = await send(test, 'POST', '/predictions')
  expect(reply.statusCode).toBe(503)
  expect(reply.json()).toEqual({ detail: 'The server is shutting down' })
  gate.open()
  await drained
  expect(await test.app.predictions.get('mine')).toMatchObject({ status: 'succeeded' })
})

test('POST /shutdown is answered with an empty object and ends the server', async () => {
  const shutdown = vi.fn()
  const { app } = await buildTestApp({}, undefined, {}, shutdown)
  const reply = await app.inject({ method: 'POST', url: '/shutdown' })
  expect([reply.statusCode, reply.json()]).toEqual([200, {}])
  expect(shutdown).toHaveBeenCalledOnce()
})
