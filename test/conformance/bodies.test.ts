/**
 * Where a naive server and the real one differ in what objects hold and inputs may be: the traps of
 * C-5.39 to C-5.70, and what clients were seen to do wrong.
 */
import Replicate, { type Prediction } from 'replicate'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { createFakeEngine } from '../fakeEngine.js'
import { createGate } from '../gate.js'
import { postJson, startServer } from './server.js'

const model = 'fluxd/flux'
const input = { prompt: 'a red circle', num_inference_steps: 1 }
const never = new Promise<void>(() => {})

test('T39: the URL of a file tells of it, and as an input it stands for its bytes', async () => {
  const { replicate, request, engine } = await startServer()
  const png = await sharp({ create: { width: 80, height: 48, channels: 3, background: 'red' } })
    .png()
    .toBuffer()
  const file = await replicate.files.create(png)
  const told = await request(new URL(file.urls.get).pathname)
  expect(told.body).toMatchObject({ id: file.id, size: png.length })
  await replicate.run(model, { input: { ...input, image: file.urls.get } })
  expect(engine.plans).toMatchObject([{ size: { width: 80, height: 48 } }])
})

test('T39: so it does behind a proxy that puts a path in front', async () => {
  const proxied = { FLUXD_PUBLIC_URL: 'https://pictures.example/flux' }
  const { replicate, engine } = await startServer({ environment: proxied })
  const image = await sharp({ create: { width: 80, height: 48, channels: 3, background: 'red' } })
    .png()
    .toBuffer()
  const file = await replicate.files.create(image)
  expect(file.urls.get).toBe(`https://pictures.example/flux/v1/files/${file.id}`)
  await replicate.run(model, { input: { ...input, image: file.urls.get } })
  expect(engine.plans).toMatchObject([{ size: { width: 80, height: 48 } }])
})

test('T40, T44, T45: a file has the name and the etag that the Python client demands', async () => {
  const { request } = await startServer()
  const form = new FormData()
  form.append('content', new Blob(['a,b'], { type: 'text/csv' }), 'a.csv')
  const { status, body } = await request('/v1/files', { method: 'POST', body: form })
  expect(status).toBe(201)
  expect(body).toMatchObject({ name: 'a.csv', etag: body.checksums.md5, content_type: 'text/csv' })
  expect(body.metadata).toEqual({})
})

test('T41: every event of a stream has an id', async () => {
  const server = await startServer()
  const { body } = await server.create({ input }, { prefer: 'wait' })
  const { text, headers } = await server.request(new URL(body.urls.stream).pathname)
  expect(headers.get('content-type')).toBe('text/event-stream')
  const events = text.split('\n\n').filter((event) => event !== '' && !event.startsWith(':'))
  expect(events.length).toBeGreaterThan(5)
  for (const event of events) expect(event).toMatch(/^id: \d+:\d+\nevent: (logs|output|done)\n/)
})

test('T43: a version that was run can be read, with a Cog version that makes no iterators', async () => {
  const { replicate } = await startServer()
  const { version } = await replicate.predictions.create({ model, input })
  const found = await replicate.models.versions.get('fluxd', 'flux', version)
  expect(found).toMatchObject({ id: version, cog_version: '0.9.26' })
  const { Input, Output } = (found.openapi_schema as OpenApi).components.schemas
  expect(Input.required).toEqual(['prompt'])
  expect(Object.keys(Input.properties)).toHaveLength(20)
  expect(Input.properties['model']).toMatchObject({
    allOf: [{ $ref: '#/components/schemas/model' }],
    default: 'dev',
  })
  expect(Output).toEqual({
    type: 'array',
    items: { type: 'string', format: 'uri' },
    title: 'Output',
  })
  const { results } = await replicate.models.versions.list('fluxd', 'flux')
  expect(results).toEqual([found])
  await expect(replicate.models.versions.get('fluxd', 'flux', 'abc')).rejects.toThrow('status 404')
})

type OpenApi = {
  components: {
    schemas: {
      Input: { required: string[]; properties: Record<string, unknown> }
      Output: unknown
    }
  }
}

test('T47: every key of a prediction is there', async () => {
  const server = await startServer({ engine: createFakeEngine({ gate: never }) })
  const { body } = await server.create({ input })
  expect(Object.keys(body).sort()).toEqual([
    'completed_at',
    'created_at',
    'data_removed',
    'deadline',
    'deployment',
    'error',
    'id',
    'input',
    'logs',
    'metrics',
    'model',
    'output',
    'source',
    'started_at',
    'status',
    'urls',
    'version',
    'webhook',
    'webhook_events_filter',
  ])
  expect(body).toMatchObject({ output: null, error: null, logs: '', metrics: {} })
  expect(Object.keys(body.urls).sort()).toEqual(['cancel', 'get', 'stream', 'web'])
})

test('T51: the last line that looks like progress is that of the steps', async () => {
  const server = await startServer()
  const { body } = await server.create({ input: { ...input, num_outputs: 2 } }, { prefer: 'wait' })
  expect(body.logs).not.toContain('\r')
  const progress = body.logs.split('\n').filter((line: string) => /^\s*\d+%\s*\|.+?\|/.test(line))
  expect(progress.at(0)).toMatch(/^\s+0%\|/)
  expect(progress.at(-1)).toMatch(/^100%\|.+\| 2\/2/)
})

test('T52: predict_time is without the time in the queue', async () => {
  const gate = createGate()
  const server = await startServer({ engine: createFakeEngine({ gate: gate.promise }) })
  await server.create({ input })
  const { body } = await server.create({ input })
  await new Promise((resolve) => setTimeout(resolve, 300))
  gate.open()
  const { metrics } = await server.replicate.wait(body as Prediction, { interval: 20 })
  expect(metrics!.total_time).toBeGreaterThan(0.29)
  expect(metrics!.predict_time).toBeLessThan(metrics!.total_time! - 0.25)
})

test('T53: the echo is what was sent, without defaults and without secrets', async () => {
  const server = await startServer()
  const sent = {
    ...input,
    seed: null,
    hf_api_token: 'hf_secret',
    extra_note: 'https://civitai.com/api/download/models/1?type=Model&token=secret',
  }
  const { body } = await server.create({ input: sent })
  expect(body.input).toEqual({
    ...sent,
    hf_api_token: '[REDACTED]',
    extra_note: 'https://civitai.com/api/download/models/1?type=Model&token=***',
  })
})

test('T54: when its time is over the record stays, without its data', async () => {
  const server = await startServer({ environment: { FLUXD_RETENTION: '1' } })
  const { body } = await server.create({ input }, { prefer: 'wait' })
  await vi.waitFor(
    async () => {
      const later = (await server.request(`/v1/predictions/${body.id}`)).body
      expect(later).toMatchObject({ data_removed: true, output: null, status: 'succeeded' })
      expect(Object.keys(later)).toEqual(Object.keys(body))
    },
    { timeout: 8000, interval: 200 },
  )
  const picture = await server.request(new URL(body.output[0]).pathname)
  expect(picture.status).toBe(404)
  expect(picture.body).toMatchObject({ title: 'Not found', status: 404 })
})

test('T55: an id is 26 lower-case letters and digits', async () => {
  const server = await startServer()
  expect((await server.create({ input })).body.id).toMatch(/^[a-z0-9]{26}$/)
})

test.each(['VERSION', 'fluxd/flux', 'fluxd/flux:VERSION'])(
  'T56: a version may be %s',
  async (form) => {
    const { request, services } = await startServer()
    const { version } = services.catalog.find('fluxd', 'flux')!
    const body = { version: form.replace('VERSION', version), input }
    const reply = await request('/v1/predictions', postJson(body))
    expect(reply.status).toBe(201)
    expect(reply.body).toMatchObject({ model, version })
  },
)

test('T43, T56: a version is also known by the id that it has elsewhere', async () => {
  const { replicate, request } = await startServer()
  const published = 'jose0012kjo/2vinij2:fab4f589'
  await expect(replicate.run(published, { input })).resolves.toHaveLength(1)
  const { latest_version } = await replicate.models.get('jose0012kjo', '2vinij2')
  for (const version of [published, 'fab4f589']) {
    const { body } = await request('/v1/predictions', postJson({ version, input }))
    expect(body).toMatchObject({ model: 'jose0012kjo/2vinij2', version: latest_version!.id })
  }
  const found = await replicate.models.versions.get('jose0012kjo', '2vinij2', 'fab4f589')
  expect(found.id).toBe(latest_version!.id)
})

test('T58: a picture that cannot be had is the fault of the prediction', async () => {
  const server = await startServer()
  const image = 'data:text/plain;base64,aGVsbG8='
  const reply = await server.create({ input: { ...input, image } }, { prefer: 'wait' })
  expect(reply.status).toBe(201)
  expect(reply.body).toMatchObject({ status: 'failed', error: expect.stringContaining('image') })
})

test.each(['http://127.0.0.1:1/a.png', 'http://169.254.169.254/latest/meta-data'])(
  'T59: a picture is not fetched from inside: %s',
  async (image) => {
    const server = await startServer()
    const reply = await server.create({ input: { ...input, image } }, { prefer: 'wait' })
    expect(reply.body).toMatchObject({
      status: 'failed',
      error: expect.stringContaining('Expected the URL of a public server'),
    })
  },
)

test('T61: a search without a match is a page without results', async () => {
  const { request } = await startServer()
  const reply = await request('/v1/models', {
    method: 'QUERY',
    headers: { 'content-type': 'text/plain' },
    body: 'zebra',
  })
  expect(reply.body).toEqual({ next: null, previous: null, results: [] })
})

test.each([['ftp://example.com'], ['nowhere'], [`https://example.com/${'x'.repeat(65_536)}`]])(
  'T64: a webhook is an http URL of bounded length (%#)',
  async (webhook) => {
    const server = await startServer()
    const reply = await server.create({ input, webhook })
    expect(reply.status).toBe(422)
    expect(reply.body.invalid_fields).toMatchObject([{ field: 'webhook' }])
  },
)

test('T65: a prediction can be read as soon as it was acknowledged', async () => {
  const server = await startServer()
  for (let i = 0; i < 20; i++) {
    const { body } = await server.create({ input })
    expect((await server.request(`/v1/predictions/${body.id}`)).status).toBe(200)
  }
})

describe('T67 to T70: what the input may be', () => {
  test.each([
    ['28.0', '28', 201],
    ['null, which is absent', 'null', 201],
    ['28.5', '28.5', 422],
    ['"28"', '"28"', 422],
    ['true', 'true', 422],
  ])('num_inference_steps %s', async (_, value, status) => {
    const { request } = await startServer()
    const body = `{"input":{"prompt":"","num_inference_steps":${value}}}`
    const reply = await request(`/v1/models/${model}/predictions`, { ...postJson(0), body })
    expect(reply.status).toBe(status)
  })

  test.each([{ prompt: '' }, { prompt: '', seed: -1 }, { prompt: '', seed: 2 ** 53 - 1 }])(
    '%j is valid',
    async (sent) => {
      expect((await (await startServer()).create({ input: sent })).status).toBe(201)
    },
  )
})

describe('what clients were seen to do wrong', () => {
  test('a Uint8Array that was serialised as an object is a 422', async () => {
    const { replicate } = await startServer()
    const image = new Uint8Array([1, 2])
    await expect(replicate.run(model, { input: { ...input, image } })).rejects.toThrow(
      'input.image: Invalid type. Expected: string, given: object',
    )
  })

  test('the client that sends itself as the input is told of the missing prompt', async () => {
    const { url } = await startServer()
    const replicate = new Replicate({
      auth: 'r8_secret',
      baseUrl: `${url}/v1`,
      fileEncodingStrategy: 'data-uri',
    })
    await expect(replicate.run(model, { input })).rejects.toThrow(
      /^(?!.*r8_secret).*input: prompt is required/,
    )
  })

  test('a base URL with one /v1 too many gets a hint', async () => {
    const { request } = await startServer()
    const reply = await request('/v1/v1/predictions')
    expect(reply.status).toBe(404)
    expect(reply.headers.get('content-type')).toBe('application/problem+json')
    expect(reply.body.detail).toContain('begins with /v1 twice')
  })

  test('what is not there and what is not allowed are problems', async () => {
    const { request } = await startServer()
    const unknown = await request('/v1/predictions/00000000000000000000000000')
    expect(unknown.body).toEqual({
      title: 'Not found',
      detail: 'The requested resource could not be found.',
      status: 404,
    })
    const wrong = await request('/v1/predictions', { method: 'PUT' })
    expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'GET, HEAD, POST'])
    expect(wrong.body.title).toBe('Method not allowed')
    const broken = await request('/v1/predictions', { ...postJson(0), body: '{' })
    expect(broken.status).toBe(400)
    expect(broken.headers.get('content-type')).toBe('application/problem+json')
  })

  test('cancelling what is over changes nothing', async () => {
    const server = await startServer()
    const { body } = await server.create({ input }, { prefer: 'wait' })
    const reply = await server.request(`/v1/predictions/${body.id}/cancel`, { method: 'POST' })
    expect(reply.status).toBe(200)
    expect(reply.body).toEqual(body)
  })
})
