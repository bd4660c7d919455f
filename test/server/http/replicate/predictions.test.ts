import type { Prediction } from 'replicate'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { FluxdError } from '../../../../src/errors.js'
import { toProblem } from '../../../../src/server/http/replicate/errors.js'
import { type Answer, startServer, type TestServer } from '../../../conformance/server.js'
import { createFakeEngine } from '../../../fakeEngine.js'
import { createGate } from '../../../gate.js'

const input = { prompt: '', num_inference_steps: 1 }

async function createMany({ replicate }: TestServer, count: number): Promise<Prediction[]> {
  const created: Prediction[] = []
  for (let i = 0; i < count; i++) {
    created.push(await replicate.predictions.create({ model: 'fluxd/flux', input }))
    // So that no two were created in the same millisecond.
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  return created
}

describe('the list of predictions', () => {
  test('can be bounded by time, whether or not the plus of a zone was escaped', async () => {
    const server = await startServer()
    const [first, second, third] = (await createMany(server, 3)) as [
      Prediction,
      Prediction,
      Prediction,
    ]
    const list = async (query: string) => {
      const { body } = await server.request(`/v1/predictions?${query}`)
      return body.results.map(({ id }: Prediction) => id)
    }
    expect(await list(`created_after=${second.created_at}`)).toEqual([third.id, second.id])
    expect(await list(`created_before=${second.created_at}`)).toEqual([first.id])
    const zoned = third.created_at.replace('Z', '+00:00')
    expect(await list(`created_after=${zoned}`)).toEqual([third.id])
    expect(await list(`created_after=${encodeURIComponent(zoned)}`)).toEqual([third.id])
  })

  test('keeps its bounds from page to page', async () => {
    const server = await startServer()
    await createMany(server, 102)
    const path = '/v1/predictions?created_after=2020-01-01T00:00:00Z'
    const { body } = await server.request(path)
    const next = new URL(body.next)
    expect(next.searchParams.get('created_after')).toBe('2020-01-01T00:00:00Z')
    const rest = await server.request(next.pathname + next.search)
    expect(rest.body.results).toHaveLength(2)
  })

  test('holds nothing that was made on a website', async () => {
    const server = await startServer()
    await createMany(server, 1)
    expect((await server.request('/v1/predictions?source=web')).body.results).toEqual([])
    expect((await server.request('/v1/predictions?source=api')).body.results).toHaveLength(1)
  })

  test.each(['cursor=nonsense', 'created_after=yesterday', 'source=elsewhere'])(
    'is a problem with %s',
    async (query) => {
      const { request } = await startServer()
      const reply = await request(`/v1/predictions?${query}`)
      expect(reply.status).toBe(422)
      expect(reply.headers.get('content-type')).toBe('application/problem+json')
    },
  )
})

test('URLs are those of the setting, else of the host that was asked', async () => {
  const named = await startServer({ environment: { FLUXD_PUBLIC_URL: 'https://fluxd.example/' } })
  const [prediction] = await createMany(named, 1)
  expect(prediction!.urls.get).toBe(`https://fluxd.example/v1/predictions/${prediction!.id}`)
  const unnamed = await startServer()
  expect((await createMany(unnamed, 1))[0]!.urls.get).toContain(`${unnamed.url}/v1/predictions/`)
})

test('a prediction that is not over says where it stands', async () => {
  const gate = createGate()
  const server = await startServer({ engine: createFakeEngine({ gate: gate.promise }) })
  const standing = ({ headers }: Answer) => headers.get('fluxd-queue-position')
  const [first, second] = [await server.create({ input }), await server.create({ input })]
  expect([standing(first), standing(second)]).toEqual(['0', '1'])
  const get = (id: string) => server.request(`/v1/predictions/${id}`)
  expect(standing(await get(second.body.id))).toBe('1')
  gate.open()
  await server.replicate.wait(second.body)
  expect(standing(await get(second.body.id))).toBeNull()
})

test('the page of a prediction on the web is its description', async () => {
  const server = await startServer()
  const [prediction] = await createMany(server, 1)
  const reply = await server.request(`/p/${prediction!.id}`)
  expect(reply.body).toMatchObject({ id: prediction!.id })
})

test.each([
  ['4s', 'Invalid Cancel-After header', { 'cancel-after': '4s' }],
  ['a long key', 'Invalid Idempotency-Key header', { 'idempotency-key': 'x'.repeat(256) }],
])('a header with %s creates nothing', async (_, title, headers) => {
  const { request } = await startServer()
  const reply = await request('/v1/models/fluxd/flux/predictions', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ input }),
  })
  expect(reply.body).toMatchObject({ status: 422, title })
  expect((await request('/v1/predictions')).body.results).toEqual([])
})

describe('an error', () => {
  test.each([
    [new FluxdError('unauthenticated', 'No key'), 401, 'Unauthenticated', 'No key'],
    [new FluxdError('queue_full', 'All places are taken'), 429, undefined, 'All places are taken'],
    [new FluxdError('draining', 'The server is shutting down'), 503, undefined, 'The server is'],
    [new FluxdError('storage_full', 'Expected room'), 507, undefined, 'Expected room'],
    [
      new FluxdError('store_damaged', 'in /secret/path'),
      500,
      undefined,
      'Something went wrong here.',
    ],
    [new Error('/secret/path'), 500, 'Internal Server Error', 'Something went wrong here.'],
  ])('%s is a problem of status %d', (error, status, title, detail) => {
    const { status: told, body } = toProblem(error)
    expect([told, body.status]).toEqual([status, status])
    if (title) expect(body.title).toBe(title)
    expect(body.detail).toContain(detail)
  })

  test('names the field of the input that is to blame', () => {
    const error = new FluxdError('not_supported', 'go_fast is not supported yet', {
      field: 'go_fast',
    })
    expect(toProblem(error).body).toMatchObject({
      detail: '- input.go_fast: go_fast is not supported yet\n',
      invalid_fields: [{ type: 'not_supported', field: 'input.go_fast' }],
    })
  })

  test.each([
    ['string_gte', z.string().min(3), 'a', 'String length must be greater than or equal to 3'],
    ['string_lte', z.string().max(1), 'ab', 'String length must be less than or equal to 1'],
    ['invalid_type', z.boolean(), null, 'Invalid type. Expected: boolean, given: null'],
    ['invalid_type', z.array(z.string()), {}, 'Invalid type. Expected: array, given: object'],
  ])('of type %s has the words of gojsonschema', (type, schema, value, description) => {
    const { error } = z.object({ field: schema }).safeParse({ field: value }, { reportInput: true })
    expect(toProblem(error).body.invalid_fields).toEqual([{ type, field: 'field', description }])
  })
})
