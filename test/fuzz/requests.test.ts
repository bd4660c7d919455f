/**
 * Whatever is sent, the server answers, in JSON, without blaming itself, and goes on. A short run
 * belongs to the suite; `npm run fuzz` makes a long one (FUZZ_CASES).
 */
import fc from 'fast-check'
import type { InjectOptions } from 'fastify'
import { expect, test } from 'vitest'
import { publishedInput } from '../../src/contract/input.js'
import { buildTestApp, type TestApp } from '../server/http/testApp.js'

const numRuns = Math.ceil(Number(process.env['FUZZ_CASES'] ?? 600) / 3)
const timeoutMs = 3_600_000

// A pixel, so that some images are sound.
const pixel =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

// Hosts that nobody answers for: nothing leaves this machine.
const environment = {
  FLUXD_HF_URL: 'http://127.0.0.1:1',
  FLUXD_CIVITAI_URL: 'http://127.0.0.1:1',
  FLUXD_REPLICATE_URL: 'http://127.0.0.1:1',
}

const address = fc.constantFrom(
  pixel,
  'data:,',
  'data:text/plain,a%20b',
  'http://127.0.0.1/x.png',
  'https://[::1]/x.safetensors',
  'http://169.254.169.254/latest/meta-data',
  'huggingface.co/owner/name',
  'civitai.com/models/1',
  'fofr/shxdo-v2',
  'owner/name',
)
const text = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('', '\u0000', '💡', '../../etc'),
)
const number = fc.oneof(fc.integer(), fc.double(), fc.maxSafeInteger(), fc.constantFrom(0, -1, 0.5))
const value = fc.oneof(text, number, fc.boolean(), address, fc.constant(null), fc.jsonValue())

/** Values that the schema knows, so that many a case gets past it. */
const fitting: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  prompt: text,
  image: address,
  mask: address,
  aspect_ratio: fc.constantFrom('1:1', '16:9', 'custom', '21:9'),
  width: fc.integer({ min: 250, max: 1445 }),
  height: fc.integer({ min: 250, max: 1445 }),
  prompt_strength: fc.double({ min: 0, max: 1, noNaN: true }),
  model: fc.constantFrom('dev', 'schnell'),
  num_outputs: fc.integer({ min: 1, max: 4 }),
  num_inference_steps: fc.integer({ min: 1, max: 4 }),
  guidance_scale: fc.double({ min: 0, max: 10, noNaN: true }),
  seed: fc.maxSafeInteger(),
  output_format: fc.constantFrom('webp', 'jpg', 'png'),
  output_quality: fc.integer({ min: 0, max: 100 }),
  megapixels: fc.constantFrom('1', '0.25'),
  go_fast: fc.boolean(),
  disable_safety_checker: fc.boolean(),
  lora_scale: fc.double({ min: -1, max: 3, noNaN: true }),
  extra_lora: address,
  extra_lora_scale: fc.double({ min: -1, max: 3, noNaN: true }),
  replicate_weights: address,
}

const fields = [...Object.keys(publishedInput.shape), 'replicate_weights']

const input = fc.record(
  Object.fromEntries(
    fields.map((field) => [
      field,
      fc.oneof({ weight: 12, arbitrary: fitting[field]! }, { weight: 1, arbitrary: value }),
    ]),
  ),
  { requiredKeys: [] },
)

const paths = fc.constantFrom(
  '/predictions',
  '/v1/predictions',
  '/v1/models/fofr/shxdo-v2/predictions',
  '/v1/deployments/a/b/predictions',
)

async function expectAnswer({ app }: TestApp, request: InjectOptions) {
  const reply = await app.inject(request)
  expect(reply.statusCode).toBeLessThan(500)
  expect(reply.statusCode).toBeGreaterThanOrEqual(200)
  if (reply.body !== '' && String(reply.headers['content-type']).includes('json'))
    JSON.parse(reply.body)
  return reply
}

const describeServer = async ({ app }: TestApp) => {
  const health = await app.inject('/health-check')
  expect(health.statusCode).toBe(200)
  const sound = await app.inject({
    method: 'POST',
    url: '/predictions',
    payload: { input: { prompt: 'after all that' } },
  })
  expect(sound.json()).toMatchObject({ status: 'succeeded' })
}

test('inputs of all kinds', { timeout: timeoutMs }, async () => {
  const server = await buildTestApp({}, undefined, environment)
  const body = fc.record(
    {
      input: fc.oneof({ weight: 8, arbitrary: input }, { weight: 1, arbitrary: value }),
      version: fc.oneof(fc.constant('fofr/shxdo-v2'), text),
      webhook: fc.oneof(fc.constant('http://127.0.0.1:1/'), value),
      webhook_events_filter: fc.oneof(fc.constant(['completed']), value),
      stream: value,
      surplus: value,
    },
    { requiredKeys: ['input'] },
  )
  await fc.assert(
    fc.asyncProperty(paths, body, async (url, payload) => {
      const reply = await expectAnswer(server, { method: 'POST', url, payload })
      if (reply.statusCode === 422) expect(reply.json()).toHaveProperty('detail')
    }),
    { numRuns },
  )
  await describeServer(server)
})

test('bodies that need not be JSON', { timeout: timeoutMs }, async () => {
  const server = await buildTestApp({}, undefined, environment)
  const contentType = fc.constantFrom(
    'application/json',
    'text/plain',
    'multipart/form-data',
    'multipart/form-data; boundary=x',
    'application/octet-stream',
    'application/x-www-form-urlencoded',
    'application/json; charset=utf-16',
    ';',
    '',
  )
  const anyPath = fc.oneof(
    paths,
    fc.constantFrom('/v1/files', '/v1/models', '/v1/deployments', '/x'),
  )
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 400 }).map((array) => Buffer.from(array)),
    fc.json().map((json) => Buffer.from(json)),
    fc
      .string()
      .map((part) =>
        Buffer.from(
          `--x\r\ncontent-disposition: form-data; name="${part}"\r\n\r\n${part}\r\n--x--\r\n`,
        ),
      ),
  )
  const methods = fc.constantFrom(
    'POST' as const,
    'PUT' as const,
    'PATCH' as const,
    'DELETE' as const,
  )
  await fc.assert(
    fc.asyncProperty(methods, anyPath, contentType, bytes, async (method, url, type, payload) => {
      await expectAnswer(server, { method, url, payload, headers: { 'content-type': type } })
    }),
    { numRuns },
  )
  await describeServer(server)
})

test('paths and headers', { timeout: timeoutMs }, async () => {
  const server = await buildTestApp({}, undefined, environment)
  const segment = fc.oneof(
    fc.constantFrom(
      'v1',
      'predictions',
      'models',
      'files',
      'fofr',
      'shxdo-v2',
      'versions',
      'cancel',
    ),
    fc.string().map(encodeURIComponent),
    fc.constantFrom('..', '%2e%2e', '%00', '%', 'stream-x', 'a'.repeat(300)),
  )
  const url = fc
    .tuple(fc.array(segment, { maxLength: 6 }), fc.webQueryParameters())
    .map(([segments, query]) => `/${segments.join('/')}?${query}`)
  const header = fc.string({
    unit: fc.integer({ min: 32, max: 126 }).map((c) => String.fromCharCode(c)),
  })
  const headers = fc.record(
    {
      prefer: fc.oneof(fc.constantFrom('wait', 'wait=1', 'wait=99', 'respond-async'), header),
      'cancel-after': fc.oneof(fc.constantFrom('5s', '1m30s', '9999h'), header),
      'idempotency-key': header,
      accept: fc.oneof(fc.constant('application/json'), header),
      'last-event-id': header,
      range: header,
      host: fc.oneof(fc.constant('localhost'), header),
      authorization: header,
    },
    { requiredKeys: [] },
  )
  const methods = fc.constantFrom(
    'GET' as const,
    'HEAD' as const,
    'OPTIONS' as const,
    'POST' as const,
  )
  await fc.assert(
    fc.asyncProperty(methods, url, headers, async (method, path, sent) => {
      if (!URL.canParse(path, 'http://localhost')) return
      const payload = method === 'POST' ? { input: { prompt: 'p' } } : undefined
      await expectAnswer(server, { method, url: path, headers: sent, ...(payload && { payload }) })
    }),
    { numRuns },
  )
  await describeServer(server)
})
