import { describe, expect, test, vi } from 'vitest'
import { buildTestApp } from '../testApp.js'

describe('a body that is wrong', () => {
  test.each([
    [{}, ['prompt'], 'Field required', 'missing'],
    [{ prompt: null }, ['prompt'], 'Field required', 'missing'],
    [{ prompt: 5 }, ['prompt'], 'Input should be a valid string', 'string_type'],
    [
      { prompt: '', num_outputs: 5 },
      ['num_outputs'],
      'Input should be less than or equal to 4',
      'less_than_equal',
    ],
    [
      { prompt: '', height: 255 },
      ['height'],
      'Input should be greater than or equal to 256',
      'greater_than_equal',
    ],
    [{ prompt: '', megapixels: '2' }, ['megapixels'], "Input should be '1' or '0.25'", 'enum'],
    [
      { prompt: '', output_format: 'gif' },
      ['output_format'],
      "Input should be 'webp', 'jpg' or 'png'",
      'enum',
    ],
    [
      { prompt: '', seed: 1.5 },
      ['seed'],
      'Input should be a valid integer, got a number with a fractional part',
      'int_from_float',
    ],
    [{ prompt: '', go_fast: 'true' }, ['go_fast'], 'Input should be a valid boolean', 'bool_type'],
    [
      { prompt: '', go_fast: 'maybe' },
      ['go_fast'],
      'Input should be a valid boolean, unable to interpret input',
      'bool_parsing',
    ],
    [
      { prompt: '', num_outputs: 'many' },
      ['num_outputs'],
      'Input should be a valid integer, unable to parse string as an integer',
      'int_parsing',
    ],
    [
      { prompt: '', num_outputs: '1.5' },
      ['num_outputs'],
      'Input should be a valid integer, unable to parse string as an integer',
      'int_parsing',
    ],
    [
      { prompt: '', guidance_scale: '0x10' },
      ['guidance_scale'],
      'Input should be a valid number, unable to parse string as a number',
      'float_parsing',
    ],
    // It could be read, and is not: nothing is coerced.
    [{ prompt: '', seed: '28' }, ['seed'], 'Input should be a valid integer', 'int_type'],
    [{ prompt: '', seed: [1] }, ['seed'], 'Input should be a valid integer', 'int_type'],
    [
      { prompt: '', lora_scale: 'strong' },
      ['lora_scale'],
      'Input should be a valid number, unable to parse string as a number',
      'float_parsing',
    ],
    [
      { prompt: '', lora_scale: '1' },
      ['lora_scale'],
      'Input should be a valid number',
      'float_type',
    ],
    [{ prompt: 1 }, ['prompt'], 'Input should be a valid string', 'string_type'],
    [
      { prompt: '', image: 'ftp://example.org/a.png' },
      ['image'],
      "'ftp' is not a valid URL scheme. 'data', 'http', or 'https' is supported.",
      'value_error',
    ],
    [[], [], 'Input should be a valid dictionary', 'dict_type'],
  ])('%j is a 422 that says where and why', async (input, path, msg, type) => {
    const { predict, engine } = await buildTestApp()
    const { status, body } = await predict({ input })
    expect(status).toBe(422)
    expect(body).toEqual({ detail: [{ loc: ['body', 'input', ...path], msg, type }] })
    expect(engine.plans).toEqual([])
  })

  test('is told all its faults at once', async () => {
    const { predict } = await buildTestApp()
    const { body } = await predict({ input: { num_outputs: 0, model: 'pro' } })
    expect(body.detail.map(({ loc }: { loc: string[] }) => loc.at(-1))).toEqual([
      'prompt',
      'model',
      'num_outputs',
    ])
  })
})

describe('a request that is not JSON', () => {
  const post = async (payload: string | undefined, headers: Record<string, string>) =>
    (await buildTestApp()).app.inject({
      method: 'POST',
      url: '/predictions',
      headers,
      ...(payload !== undefined && { payload }),
    })
  const json = { 'content-type': 'application/json' }

  test.each(['{"input":', 'null,', '{"__proto__": {}, "input": {}}'])(
    'is a 400 with a sentence: %s',
    async (payload) => {
      const reply = await post(payload, json)
      expect(reply.statusCode).toBe(400)
      expect(reply.json()).toEqual({ detail: expect.stringMatching(/\w+ \w+/) })
    },
  )

  test.each([undefined, '', 'null', '{}', '{"input":null}'])(
    'lacks a prompt if it is empty: %j',
    async (payload) => {
      const reply = await post(payload, payload === undefined ? {} : json)
      expect(reply.statusCode).toBe(422)
      expect(reply.json().detail[0].loc).toEqual(['body', 'input', 'prompt'])
    },
  )

  test.each(['text/plain', 'application/x-www-form-urlencoded'])('is a 415 as %s', async (type) => {
    const reply = await post('{"input":{"prompt":""}}', { 'content-type': type })
    expect(reply.statusCode).toBe(415)
    expect(reply.json()).toEqual({
      detail: `Expected content-type application/json but received ${type}`,
    })
  })

  test('is a 413 above 105 MiB, told before the body is read', async () => {
    const reply = await post('{}', { ...json, 'content-length': String(105 * 1024 * 1024 + 1) })
    expect(reply.statusCode).toBe(413)
    expect(reply.json()).toEqual({ detail: 'Request body is too large' })
  })
})

test.each([
  ['GET', '/predictions/abc', 'PUT'],
  ['DELETE', '/predictions?a=b', 'POST'],
  ['POST', '/docs/static/index.css', 'GET, HEAD'],
] as const)('%s %s is a 405 that names what is allowed', async (method, url, allowed) => {
  const reply = await (await buildTestApp()).app.inject({ method, url })
  expect(reply.statusCode).toBe(405)
  expect(reply.headers.allow).toBe(allowed)
  expect(reply.json()).toEqual({ detail: 'Method Not Allowed' })
})

test.each(['/nowhere', '/predictions/a/b'])('GET %s is a 404', async (url) => {
  const reply = await (await buildTestApp()).app.inject(url)
  expect(reply.statusCode).toBe(404)
  expect(reply.json()).toEqual({ detail: 'Not Found' })
})

test('a malformed URL is a 400 with a sentence', async () => {
  const reply = await (await buildTestApp()).app.inject('/%zz')
  expect(reply.statusCode).toBe(400)
  expect(reply.json()).toEqual({ detail: "'/%zz' is not a valid url component" })
})

test('a fault of our own is a 500 that gives nothing away', async () => {
  const { app, engine } = await buildTestApp()
  vi.spyOn(engine, 'status').mockImplementation(() => {
    throw new Error('/secret/path is gone')
  })
  const reply = await app.inject('/health-check')
  expect(reply.statusCode).toBe(500)
  expect(reply.json()).toEqual({ detail: 'Internal Server Error' })
})
