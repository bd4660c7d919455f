/**
 * Where a naive server and the real one differ in the eyes of the official clients, up to the reply of a
 * create: the traps C-5.1 to C-5.70 by their numbers, with the requests as they were seen on the
 * wire. bodies.test.ts has the others.
 */
import { request as sendHttp } from 'node:http'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { createFakeEngine } from '../fakeEngine.js'
import { createGate } from '../gate.js'
import { postJson, startServer } from './server.js'

const model = 'fluxd/flux'
const input = { prompt: 'a red circle', num_inference_steps: 1 }
const json = { 'content-type': 'application/json' }
const never = new Promise<void>(() => {})

describe('T24, T25: creating', () => {
  test('does not wait unless it is asked to, and is a 201 either way', async () => {
    const server = await startServer({ engine: createFakeEngine({ gate: never }) })
    const reply = await server.create({ input })
    expect(reply.status).toBe(201)
    expect(reply.body.status).toBe('starting')
    expect(reply.headers.get('location')).toBe(reply.body.urls.get)
    expect(reply.headers.get('preference-applied')).toBeNull()
  })

  test('with Prefer: wait answers 201 with the end of it', async () => {
    const server = await startServer()
    const reply = await server.create({ input }, { prefer: 'wait=7' })
    expect(reply.status).toBe(201)
    expect(reply.headers.get('preference-applied')).toBe('wait=7')
    expect(reply.body).toMatchObject({
      status: 'succeeded',
      output: [expect.stringMatching(/\/files\/[a-z0-9]{26}\/out-0\.webp$/)],
      metrics: { predict_time: expect.any(Number), total_time: expect.any(Number), image_count: 1 },
    })
  })

  test('a failure of the model is no failure of the request', async () => {
    const server = await startServer({ engine: createFakeEngine({ failure: new Error('burnt') }) })
    const reply = await server.create({ input }, { prefer: 'wait' })
    expect(reply.status).toBe(201)
    expect(reply.body).toMatchObject({ status: 'failed', error: 'burnt', output: null })
    await expect(server.replicate.run(model, { input })).rejects.toThrow('Prediction failed: burnt')
  })
})

test('T20: custom without a size is a prediction that fails', async () => {
  const server = await startServer()
  const reply = await server.create(
    { input: { prompt: '', aspect_ratio: 'custom' } },
    { prefer: 'wait' },
  )
  expect(reply.status).toBe(201)
  expect(reply.body).toMatchObject({
    status: 'failed',
    error: "width and height must be defined if aspect ratio is 'custom'",
  })
})

describe('T30: what a body may hold besides the contract', () => {
  test('unknown fields of the input are dropped and echoed', async () => {
    const server = await startServer()
    const sent = { ...input, negative_prompt: 'blur' }
    expect((await server.create({ input: sent })).body.input).toEqual(sent)
  })

  test('what old clients send beside it is accepted', async () => {
    const server = await startServer()
    const body = { input, stream: true, webhook_completed: 'https://example.com' }
    expect((await server.create(body)).status).toBe(201)
  })
})

test.each([
  ['POST', '/v1/predictions/ID/cancel', 200],
  ['DELETE', '/v1/deployments/fluxd/mine', 204],
  ['DELETE', '/v1/files/FILE', 204],
])('T31: an empty body that says it is JSON is none: %s %s', async (method, path, status) => {
  const server = await startServer()
  const { body: prediction } = await server.create({ input })
  const { version } = prediction
  const release = { name: 'mine', model, version, hardware: 'local' }
  await server.request(
    '/v1/deployments',
    postJson({ ...release, min_instances: 0, max_instances: 1 }),
  )
  const file = await server.replicate.files.create(Buffer.from('x'))
  const target = path.replace('ID', prediction.id).replace('FILE', file.id)
  const reply = await server.request(target, { method, headers: json })
  expect(reply.status).toBe(status)
})

describe('T32: large bodies', () => {
  test('a picture of 12 MB comes as a data URI', async () => {
    const server = await startServer()
    const noise = Buffer.alloc(2000 * 2000 * 3)
    for (let at = 0, state = 1; at < noise.length; at++) {
      state = (state * 1103515245 + 12345) % 2147483648
      noise[at] = state >> 16
    }
    const raw = { width: 2000, height: 2000, channels: 3 } as const
    const png = await sharp(noise, { raw }).png({ compressionLevel: 0 }).toBuffer()
    expect(png.length).toBeGreaterThan(11_000_000)
    const image = `data:image/png;base64,${png.toString('base64')}`
    const reply = await server.create({ input: { ...input, image } }, { prefer: 'wait' })
    expect(reply.body).toMatchObject({ status: 'succeeded', input: { image } })
    expect(server.engine.plans).toMatchObject([{ size: { width: 1440, height: 1440 } }])
  })

  test('more than 105 MiB are refused before they are read', async () => {
    const { url } = await startServer()
    const status = await new Promise((resolve, reject) => {
      const headers = { ...json, 'content-length': 105 * 1024 * 1024 + 1 }
      const client = sendHttp(`${url}/v1/predictions`, { method: 'POST', headers }, (reply) => {
        resolve([reply.statusCode, reply.headers['content-type']])
        client.destroy()
      })
      client.on('error', reject)
      client.flushHeaders()
    })
    expect(status).toEqual([413, 'application/problem+json'])
  })
})

test.each([
  ['as JSON, as the JavaScript client does', '"one fruit"'],
  ['as it is, as the Python client does', 'one fruit'],
])('T33: QUERY /v1/models takes the text %s', async (_, body) => {
  const { request, services } = await startServer()
  await services.catalog.add({ owner: 'acme', name: 'fruit' }, { description: 'Just one fruit' })
  const headers = { 'content-type': 'text/plain' }
  const reply = await request('/v1/models', { method: 'QUERY', headers, body })
  expect(reply.status).toBe(200)
  expect(reply.body.results.map(({ name }: { name: string }) => name)).toEqual(['fruit'])
})

describe('T34, T66: when the wait is over first', () => {
  test('the reply says starting, and only this reply does', async () => {
    const server = await startServer({ engine: createFakeEngine({ gate: never }) })
    const sentAtMs = performance.now()
    const reply = await server.create({ input }, { prefer: 'wait=1' })
    const seconds = (performance.now() - sentAtMs) / 1000
    expect(reply.status).toBe(202)
    expect(reply.body).toMatchObject({ status: 'starting', output: null })
    // T46: the Python client gives up half a second after the time it asked for: 20 ms late were
    // observed. Without the header it would be 58 s; between the two only load decides.
    expect(seconds).toBeGreaterThan(0.95)
    expect(seconds).toBeLessThan(30)
    const { body } = await server.request(`/v1/predictions/${reply.body.id}`)
    expect(body.status).toBe('processing')
  })

  test('the JavaScript client goes on to poll until there is a picture', async () => {
    const gate = createGate()
    const { replicate } = await startServer({ engine: createFakeEngine({ gate: gate.promise }) })
    setTimeout(gate.open, 1300)
    const output = await replicate.run(model, { input, wait: { mode: 'block', timeout: 0.4 } })
    expect(output).toHaveLength(1)
  })

  test('a wait of more than 60 s, which that client may ask for, is one of 60 s', async () => {
    const server = await startServer()
    const reply = await server.create({ input }, { prefer: 'wait=301' })
    expect(reply.headers.get('preference-applied')).toBe('wait=60')
  })
})

test('T35: a deadline before the start is a cancel, not a status that clients do not know', async () => {
  const server = await startServer({ engine: createFakeEngine({ gate: never }) })
  const blocking = await server.create({ input })
  const { body } = await server.create({ input }, { 'cancel-after': '5s' })
  expect(new Date(body.deadline).getTime() - new Date(body.created_at).getTime()).toBeCloseTo(
    5000,
    // Between reading the header and the admission: 4 ms observed.
    -3,
  )
  const ended = await server.replicate.wait(body, { interval: 100 })
  expect(ended).toMatchObject({ status: 'canceled', output: null })
  await server.replicate.predictions.cancel(blocking.body.id)
})

describe('T36: requests that come again', () => {
  test('six at once with one Idempotency-Key are one prediction', async () => {
    const server = await startServer()
    const replies = await Promise.all(
      Array.from({ length: 6 }, () => server.create({ input }, { 'idempotency-key': 'again' })),
    )
    expect(replies.map(({ status }) => status)).toEqual(replies.map(() => 201))
    expect(new Set(replies.map(({ body }) => body.id)).size).toBe(1)
    expect((await server.replicate.predictions.list()).results).toHaveLength(1)
  })

  test('the same key for another request is a problem', async () => {
    const server = await startServer()
    const headers = { 'idempotency-key': 'again' }
    await server.create({ input }, headers)
    const reply = await server.create({ input: { prompt: 'another' } }, headers)
    expect(reply.status).toBe(422)
    expect(reply.body.title).toBe('Idempotency key already used')
  })

  test('a client that hangs up while it waits cancels nothing', async () => {
    const gate = createGate()
    const engine = createFakeEngine({ gate: gate.promise })
    const { url, replicate } = await startServer({ engine })
    const controller = new AbortController()
    const { signal } = controller
    const sent = fetch(`${url}/v1/models/${model}/predictions`, {
      ...postJson({ input }, { prefer: 'wait' }),
      signal,
    })
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    controller.abort()
    await expect(sent).rejects.toThrow()
    gate.open()
    const [prediction] = (await replicate.predictions.list()).results
    expect(await replicate.wait(prediction!, { interval: 10 })).toMatchObject({
      status: 'succeeded',
    })
  })

  test('what is wrong for good says that it is not to be repeated', async () => {
    const { request } = await startServer()
    const reply = await request('/v1/predictions', postJson({ version: 'none', input }))
    expect(reply.headers.get('x-should-retry')).toBe('false')
  })
})

describe('T37: how images are sent', () => {
  test('as http URLs, which both clients leave as text', async () => {
    const { replicate } = await startServer({ environment: { FLUXD_OUTPUT_MODE: 'url' } })
    const [output] = (await replicate.run(model, { input })) as string[]
    expect(output).toMatch(/^http:\/\//)
  })

  test('as data URIs where a request asks for them', async () => {
    const server = await startServer()
    const { body, headers } = await server.create({ input }, { prefer: 'wait, output=data' })
    expect(headers.get('preference-applied')).toBe('wait, output=data')
    expect(body.output).toEqual([expect.stringMatching(/^data:image\/webp;base64,/)])
    const again = await server.request(`/v1/predictions/${body.id}`, {
      headers: { prefer: 'output=data' },
    })
    expect(again.body.output).toEqual(body.output)
  })

  test('as the server decides where it does', async () => {
    const server = await startServer({ environment: { FLUXD_OUTPUT_MODE: 'url' } })
    const { body } = await server.create({ input }, { prefer: 'wait, output=data' })
    expect(body.output[0]).toMatch(/^http:/)
  })
})

test('T38: pictures and streams need no key, and do not mind one', async () => {
  const server = await startServer()
  const { body } = await server.create({ input }, { prefer: 'wait' })
  for (const headers of [{}, { authorization: 'Bearer any' }])
    for (const url of [body.output[0], body.urls.stream])
      expect((await server.request(new URL(url).pathname, { headers })).status).toBe(200)
  const picture = await server.request(new URL(body.output[0]).pathname)
  expect(picture.headers.get('content-type')).toBe('image/webp')
  expect(picture.headers.get('cache-control')).toContain('immutable')
})
