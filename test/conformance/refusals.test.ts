/** What a client is told that asks for something wrong: what was expected, where, and what came (C-3.8). */
import { describe, expect, test } from 'vitest'
import { postJson, startServer } from './server.js'

const input = { prompt: 'a red circle', num_inference_steps: 1 }
const named = '/v1/models/fluxd/flux/predictions'
const json = { 'content-type': 'application/json' }

test.each([
  ['/v1/predictions', '- version is required\n- input is required\n'],
  [named, '- input is required\n'],
])('POST %s without a body is told what is missing', async (path, missing) => {
  const { request } = await startServer()
  const reply = await request(path, { method: 'POST', headers: json })
  expect(reply.status).toBe(422)
  expect(reply.body.detail.split('\n').sort()).toEqual(missing.split('\n').sort())
})

describe('a body that is no JSON', () => {
  test.each([
    ['{"input": prompt}', "Unexpected token 'p'"],
    ['{"input":', 'Unexpected end of JSON input'],
    ['{"input":{"__proto__":{}}}', 'it has a key __proto__ or constructor.prototype'],
    ['{"input":{"prompt":"\\ud83d"}}', 'it has half of a surrogate pair'],
    ['{"input":{"\\ude00":1}}', 'it has half of a surrogate pair'],
  ])('is told where: %s', async (body, fault) => {
    const { request } = await startServer()
    for (const path of ['/predictions', named]) {
      const reply = await request(path, { method: 'POST', headers: json, body })
      expect(reply.status).toBe(400)
      expect(reply.body.detail).toContain('Expected a body of JSON but it cannot be read: ')
      expect(reply.body.detail).toContain(fault)
    }
  })
})

describe('only what is no URL is told that it is none', () => {
  test('a time', async () => {
    const { request } = await startServer()
    const reply = await request('/v1/predictions?created_after=yesterday')
    expect(reply.body.invalid_fields).toEqual([
      {
        type: 'format',
        field: 'created_after',
        description: 'Expected a time such as 2026-01-02T03:04:05Z',
      },
    ])
  })

  test('a webhook', async () => {
    const server = await startServer()
    const reply = await server.create({ input, webhook: 'nowhere' })
    expect(reply.body.detail).toBe("- webhook: Does not match format 'uri'\n")
  })
})

test('a number that is beyond all numbers is told as one', async () => {
  const { request } = await startServer()
  const body = '{"input":{"prompt":"","guidance_scale":1e400}}'
  const reply = await request(named, { ...postJson(0), body })
  expect(reply.body.detail).toBe(
    '- input.guidance_scale: Invalid type. Expected: number, given: Infinity\n',
  )
})

test.each(['fluxd/flux/anything', 'fluxd/flux/05d8', 'a/fluxd/flux'])(
  'version %s is of no model',
  async (version) => {
    const { request } = await startServer()
    const reply = await request('/v1/predictions', postJson({ version, input }))
    expect(reply.status).toBe(422)
    expect(reply.body.title).toBe('Invalid version or not permitted')
  },
)

test.each(['', 'a/b', '..', 'über', '-x', 'x'.repeat(65)])(
  'a deployment cannot be called %j, which no path can name',
  async (name) => {
    const { request, services } = await startServer()
    const { version } = services.catalog.find('fluxd', 'flux')!
    const release = { name, model: 'fluxd/flux', version, hardware: 'local' }
    const sent = { ...release, min_instances: 0, max_instances: 1 }
    const reply = await request('/v1/deployments', postJson(sent))
    expect(reply.status).toBe(422)
    expect(reply.body.invalid_fields).toMatchObject([{ type: 'format', field: 'name' }])
    expect((await request('/v1/deployments')).body.results).toEqual([])
  },
)

describe('a path', () => {
  test.each([
    ['/v1/models/%zz/x', 400, "'/v1/models/%zz/x' is not a valid url component"],
    [
      `/v1/predictions/${'x'.repeat(601)}`,
      414,
      'Expected at most 600 characters between two slashes of the path',
    ],
  ])('below /v1 is refused as a problem (%#)', async (path, status, detail) => {
    const { request } = await startServer()
    const reply = await request(path)
    expect(reply.status).toBe(status)
    expect(reply.headers.get('content-type')).toBe('application/problem+json')
    expect(reply.body).toMatchObject({ detail, status })
  })

  test('may hold the longest id that a Cog client may choose', async () => {
    const { request } = await startServer()
    const id = '@'.repeat(200)
    const put = { ...postJson({ input }), method: 'PUT' }
    const reply = await request(`/predictions/${encodeURIComponent(id)}`, put)
    expect(reply.body).toMatchObject({ id, status: 'succeeded' })
    const told = await request(`/v1/predictions/${encodeURIComponent(id)}`)
    expect(told.body).toMatchObject({ id, status: 'succeeded' })
  })
})

test('a body with an encoding is refused as such, on both surfaces', async () => {
  const { request } = await startServer()
  for (const path of ['/predictions', '/v1/models/fluxd/flux/predictions', '/v1/files'])
    for (const encoding of ['gzip', 'br', 'deflate']) {
      const headers = { 'content-type': 'application/json', 'content-encoding': encoding }
      const { status, body } = await request(path, { method: 'POST', headers, body: '\x1f\x8b' })
      expect([status, body.detail]).toEqual([
        415,
        `Expected a body without content-encoding but received ${encoding}`,
      ])
    }
})

test('text is no body of a prediction, on both surfaces', async () => {
  const { request } = await startServer()
  const headers = { 'content-type': 'text/plain' }
  for (const path of ['/predictions', '/v1/models/fluxd/flux/predictions'])
    expect((await request(path, { method: 'POST', headers, body: '{}' })).status).toBe(415)
})

test('every list calls a wrong cursor one', async () => {
  const { request } = await startServer()
  for (const list of ['predictions', 'models', 'files', 'deployments']) {
    const { status, body } = await request(`/v1/${list}?cursor=nonsense`)
    expect([status, body.title]).toEqual([422, 'Invalid cursor'])
  }
})

test('a 401 says how to authenticate', async () => {
  const { request } = await startServer({ environment: { FLUXD_API_KEY: 'k'.repeat(32) } })
  for (const path of ['/v1/predictions', '/predictions/x/cancel']) {
    const { status, headers } = await request(path, {
      method: path.startsWith('/v1') ? 'GET' : 'POST',
    })
    expect([status, headers.get('www-authenticate')]).toEqual([401, 'Bearer'])
  }
})
