/** Requests that are made to cost more than they may. */
import fc from 'fast-check'
import type { FastifyInstance, InjectOptions } from 'fastify'
import { describe, expect, test } from 'vitest'
import { longestRequestMs } from '../../../src/server/http/bodyParser.js'
import { longestField, longestLora, longestRest } from '../../../src/server/http/inputLimits.js'
import { refuseShape } from '../../../src/server/http/jsonLimits.js'
import { buildTestApp } from './testApp.js'

const named = '/v1/models/fluxd/flux/predictions'
const headers = { 'content-type': 'application/json' }
const nest = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
const keys = (count: number) => Array.from({ length: count }, (_, n) => `"k${n}":0`).join(',')

describe('the shape of JSON', () => {
  const shapeOf = (text: string) => refuseShape(Buffer.from(text))

  test('of every small value is fine, whatever its texts hold', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => {
        expect(shapeOf(JSON.stringify(value))).toBeUndefined()
      }),
    )
  })

  test.each([
    ['a long text', JSON.stringify({ a: 'x'.repeat(1_000_000) })],
    ['brackets in a text', JSON.stringify({ a: '[{'.repeat(100_000) })],
    ['escapes in a text', JSON.stringify({ a: `${'\\'.repeat(100_000)}"\n` })],
    ['64 levels', nest(64)],
    ['a text without an end', '{"a":"'],
  ])('of %s is fine', (_, text) => expect(shapeOf(text)).toBeUndefined())

  test.each([
    ['65 levels', nest(65), /^Expected JSON of at most 64 levels/],
    ['levels without end', '{"a":'.repeat(1_000_000), /^Expected JSON of at most 64 levels/],
    ['many numbers', `[${'1,'.repeat(40_000)}1]`, /^Expected at most 65536 bytes of JSON besides/],
    ['many keys', `{${keys(20_000)}}`, /^Expected at most 65536 bytes/],
    ['many quotes in a text', JSON.stringify('"'.repeat(100_000)), /^Expected at most 65536 bytes/],
    ['white space', `${' '.repeat(100_000)}1`, /^Expected at most 65536 bytes/],
  ])('of %s is refused', (_, text, sentence) => expect(shapeOf(text)).toMatch(sentence))

  test.each(['/predictions', named])(
    'is refused by %s as a body that is too large',
    async (url) => {
      const { app } = await buildTestApp()
      for (const payload of [`{"input":{"deep":${nest(5000)}}}`, `{"input":{${keys(20_000)}}}`]) {
        const reply = await app.inject({ method: 'POST', url, headers, payload })
        expect(reply.statusCode).toBe(413)
        expect(reply.json().detail).toMatch(/^Expected (JSON of at most 64 levels|at most 65536)/)
      }
    },
  )

  /** A form with one field, which says that it is JSON or does not. */
  const sendForm = (
    app: FastifyInstance,
    url: string,
    name: string,
    text: string,
    isJson: boolean,
  ) =>
    app.inject({
      method: 'POST',
      url,
      headers: { 'content-type': 'multipart/form-data; boundary=b' },
      payload: [
        '--b',
        `content-disposition: form-data; name="${name}"`,
        ...(isJson ? ['content-type: application/json'] : []),
        ...['', text, '--b--', ''],
      ].join('\r\n'),
    })

  test.each([
    ['input', `{"prompt":"p","deep":${nest(65)}}`, false],
    ['input', `{"prompt":"p","deep":${nest(5000)}}`, true],
    ['deep', nest(5000), true],
  ])('is that of JSON inside a form, too: %s', async (name, text, isJson) => {
    const { app } = await buildTestApp()
    const reply = await sendForm(app, '/predictions', name, text, isJson)
    expect([reply.statusCode, reply.json().detail]).toEqual([
      413,
      'Expected JSON of at most 64 levels but received more',
    ])
  })

  test('of what describes an upload is refused where it is too much', async () => {
    const { app } = await buildTestApp()
    const reply = await app.inject({
      method: 'POST',
      url: '/v1/files',
      headers: { 'content-type': 'multipart/form-data; boundary=b' },
      payload: [
        ...['--b', 'content-disposition: form-data; name="content"; filename="a"', '', 'a'],
        ...['--b', 'content-disposition: form-data; name="metadata"'],
        ...['content-type: application/json', '', nest(5000), '--b--', ''],
      ].join('\r\n'),
    })
    expect([reply.statusCode, reply.json().detail]).toEqual([
      422,
      '- metadata: Expected a JSON object of at most 64 KiB\n',
    ])
  })

  test('does not matter to a search, which is short', async () => {
    const { app } = await buildTestApp()
    const search = (payload: string) =>
      app.inject({
        method: 'QUERY',
        url: '/v1/models',
        payload,
        headers: { 'content-type': 'text/plain' },
      } as InjectOptions)
    expect((await search('[['.repeat(1000))).statusCode).toBe(200)
    expect((await search('[['.repeat(10_000))).statusCode).toBe(413)
  })
})

test('a body with thousands of faults is told a hundred of them', async () => {
  const { app } = await buildTestApp()
  const payload = `{"input":{"prompt":"p"},${keys(5000)}}`
  const reply = await app.inject({ method: 'POST', url: named, headers, payload })
  expect([reply.statusCode, reply.json().invalid_fields.length]).toEqual([422, 100])
})

test('a prompt longer than any encoder reads is refused on both surfaces', async () => {
  const { app, predict } = await buildTestApp()
  const input = { prompt: 'p'.repeat(100_001) }
  expect(await predict({ input })).toEqual({
    status: 422,
    body: {
      detail: [
        {
          loc: ['body', 'input', 'prompt'],
          msg: 'String should have at most 100000 characters',
          type: 'string_too_long',
        },
      ],
    },
  })
  const reply = await app.inject({ method: 'POST', url: named, payload: { input } })
  expect(reply.json().detail).toBe(
    '- input.prompt: String length must be less than or equal to 100000\n',
  )
})

test('an input of many texts does not make a long line of a list', async () => {
  const { app } = await buildTestApp()
  const input: Record<string, string> = { prompt: 'p' }
  for (let n = 0; n < 500; n++) input[`k${n}`] = 'x'.repeat(4000)
  const created = await app.inject({ method: 'POST', url: named, payload: { input } })
  expect(created.json().input).toEqual(input)
  const list = await app.inject('/v1/predictions')
  expect(list.json().results[0].input).toMatchObject({ prompt: 'p', k0: input['k0'] })
  expect(list.body.length).toBeLessThan(70_000)
})

test('who never ends a request is not waited for without end', async () => {
  const { app } = await buildTestApp()
  await app.ready()
  expect(app.server.requestTimeout).toBe(longestRequestMs)
})

describe('the length of the input', () => {
  const send = async (input: object, url = named) => {
    const { app, engine } = await buildTestApp()
    const payload = { input: { prompt: 'p', ...input } }
    const reply = await app.inject({ method: 'POST', url, headers, payload })
    return { reply, engine }
  }

  test.each([
    ['unknown', 'x'.repeat(longestField + 1)],
    ['unknown', { deep: ['x'.repeat(longestField)] }],
    ['extra_lora', 'x'.repeat(longestField + 1)],
    ['replicate_weights', `https://lora.example/${'x'.repeat(longestField)}`],
    ['lora_weights', `data:,${'x'.repeat(longestLora)}`],
    ['image', `https://images.example/${'x'.repeat(longestField)}`],
    ['aspect_ratio', 'x'.repeat(longestField + 1)],
  ])('a 422 names %s where it is too long', async (field, value) => {
    const replicate = (await send({ [field]: value })).reply
    expect(replicate.statusCode).toBe(422)
    expect(replicate.json().invalid_fields[0]).toMatchObject({
      type: 'string_lte',
      field: `input.${field}`,
    })
    expect(replicate.body.length).toBeLessThan(1000)
    const cog = (await send({ [field]: value }, '/predictions')).reply
    expect([cog.statusCode, cog.json().detail[0].loc]).toEqual([422, ['body', 'input', field]])
  })

  test('is bounded for many fields together, their names included', async () => {
    const fields = Array.from({ length: 80 }, (_, index) => [`k${index}`, 'x'.repeat(60_000)])
    for (const input of [Object.fromEntries(fields), { ['k'.repeat(longestRest + 1)]: 1 }])
      for (const url of [named, '/predictions'])
        expect((await send(input, url)).reply.statusCode).toBe(413)
  })

  test('may be that of a prompt, an image and a LoRA', async () => {
    const { reply } = await send({
      prompt: 'p'.repeat(100_000),
      image: `data:image/png;base64,${'A'.repeat(20_000_000)}`,
      extra_lora: `data:application/x-tar;base64,${'A'.repeat(1_000_000)}`,
    })
    expect(reply.statusCode).toBe(201)
  })

  test('a long image must be plain base64, as a file is made of it', async () => {
    const { reply } = await send({ image: `data:image/png,${'%41'.repeat(3_000_000)}` })
    expect(reply.statusCode).toBe(422)
    expect(reply.json().invalid_fields[0].field).toBe('input.image')
  })
})
