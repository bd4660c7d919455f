/** The surface of a Cog container as its clients see it: C-2.1 to C-2.7, C-5.23 to C-5.30. */
import { connect } from 'node:net'
import { describe, expect, test, vi } from 'vitest'
import { createFakeEngine } from '../fakeEngine.js'
import { createGate } from '../gate.js'
import { postJson, startServer, type TestServer } from './server.js'

const json = { 'content-type': 'application/json' }
const input = { prompt: 'a red circle', num_inference_steps: 1 }
const never = new Promise<void>(() => {})

const predict = (
  { request }: TestServer,
  headers: Record<string, string> = {},
  body: object = { input },
) => request('/predictions', postJson(body, headers))

test('the index names the routes, and those for GET are there', async () => {
  const { request } = await startServer()
  const { body: index } = await request('/')
  expect(index).toEqual({
    cog_version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
    docs_url: '/docs',
    openapi_url: '/openapi.json',
    shutdown_url: '/shutdown',
    healthcheck_url: '/health-check',
    predictions_url: '/predictions',
    predictions_idempotent_url: '/predictions/{prediction_id}',
    predictions_cancel_url: '/predictions/{prediction_id}/cancel',
  })
  for (const path of [index.openapi_url, index.healthcheck_url, index.docs_url])
    expect((await request(path)).status).toBe(200)
})

test('T23: a second prediction waits, or is a 409 where the server is told so', async () => {
  const gate = createGate()
  const waiting = await startServer({ engine: createFakeEngine({ gate: gate.promise }) })
  const both = Promise.all([predict(waiting), predict(waiting)])
  gate.open()
  expect((await both).map(({ body }) => body.status)).toEqual(['succeeded', 'succeeded'])
  const refusing = await startServer({
    engine: createFakeEngine({ gate: never }),
    environment: { FLUXD_COG_BUSY: '409' },
  })
  await vi.waitFor(async () =>
    expect((await refusing.request('/health-check')).body.setup.status).toBe('succeeded'),
  )
  expect((await predict(refusing, { prefer: 'respond-async' })).status).toBe(202)
  const refused = await predict(refusing)
  expect([refused.status, refused.body]).toEqual([409, { detail: 'Already running a prediction' }])
})

test('T24: a failure of the model is a 200', async () => {
  const server = await startServer({ engine: createFakeEngine({ failure: new Error('burnt') }) })
  const { status, body } = await predict(server)
  expect(status).toBe(200)
  expect(body).toMatchObject({ status: 'failed', error: 'burnt', output: null })
})

test('T25: it waits unless Prefer is exactly respond-async', async () => {
  const server = await startServer()
  expect((await predict(server, { prefer: 'wait=1' })).body.status).toBe('succeeded')
  const { status, body } = await predict(server, { prefer: 'respond-async' })
  expect(status).toBe(202)
  expect(body.completed_at).toBeNull()
})

test('T26: there is no GET /predictions/{id}, and PUT makes one prediction of an id', async () => {
  const server = await startServer()
  const put = () =>
    server.request('/predictions/own', {
      method: 'PUT',
      headers: json,
      body: JSON.stringify({ input }),
    })
  expect((await put()).body).toMatchObject({ id: 'own', status: 'succeeded' })
  expect((await put()).body).toMatchObject({ id: 'own', status: 'succeeded' })
  expect(server.engine.plans).toHaveLength(1)
  const got = await server.request('/predictions/own')
  expect([got.status, got.body, got.headers.get('allow')]).toEqual([
    405,
    { detail: 'Method Not Allowed' },
    'PUT',
  ])
})

test('T27: the health check is a 200 whatever it says', async () => {
  for (const status of ['starting', 'ready', 'busy', 'stopped'] as const) {
    const { request } = await startServer({ engine: createFakeEngine({ status }) })
    const reply = await request('/health-check')
    expect(reply.status).toBe(200)
    expect(reply.body).toMatchObject({ status: expect.any(String), setup: expect.any(Object) })
  }
})

test('T28, T31: cancel is answered with an empty object, and its body may be empty', async () => {
  const server = await startServer({ engine: createFakeEngine({ gate: never }) })
  const { body } = await predict(server, { prefer: 'respond-async' }, { id: 'own', input })
  expect(body.id).toBe('own')
  const cancel = (id: string) =>
    server.request(`/predictions/${id}/cancel`, { method: 'POST', headers: json })
  const [known, unknown] = [await cancel('own'), await cancel('another')]
  expect([known.status, known.text]).toEqual([200, '{}'])
  expect([unknown.status, unknown.text]).toEqual([404, '{}'])
})

test('a client that hangs up cancels', async () => {
  const server = await startServer({ engine: createFakeEngine({ gate: never }) })
  const body = JSON.stringify({ input })
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
  socket.write(
    `POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  )
  await vi.waitFor(() => expect(server.engine.plans).toHaveLength(1))
  socket.destroy()
  await vi.waitFor(() => expect(server.engine.canceledSeeds).toHaveLength(1))
})

describe('T62, T63: pictures inside of bodies', () => {
  test('come as data URIs with the type of the picture', async () => {
    const server = await startServer()
    for (const [format, type] of [
      ['webp', 'image/webp'],
      ['jpg', 'image/jpeg'],
      ['png', 'image/png'],
    ]) {
      const { body } = await predict(server, {}, { input: { ...input, output_format: format } })
      expect(body.output[0].split(';')[0]).toBe(`data:${type}`)
    }
  })

  test('are taken percent-encoded too', async () => {
    const server = await startServer()
    const { body: drawn } = await predict(server, {}, { input: { ...input, output_format: 'png' } })
    const bytes = Buffer.from(drawn.output[0].split(',')[1], 'base64')
    const escaped = [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
    const image = `data:image/png,${escaped}`
    const { body } = await predict(server, {}, { input: { ...input, image } })
    expect(body.status).toBe('succeeded')
    expect(server.engine.plans[1]).toMatchObject({ start: { kind: 'image' } })
  })
})
