/** Forms in place of JSON, on both surfaces: the same object comes out. */
import sharp from 'sharp'
import { expect, test } from 'vitest'
import { startServer } from './server.js'

const drawPng = async () =>
  new Uint8Array(
    await sharp({ create: { width: 64, height: 48, channels: 3, background: 'blue' } })
      .png()
      .toBuffer(),
  )

/** The parts in their order. */
function toForm(parts: readonly (readonly [string, string | Blob])[]): FormData {
  const form = new FormData()
  for (const [name, value] of parts) form.append(name, value)
  return form
}

const paths = ['/v1/models/fluxd/flux/predictions', '/predictions']

test.each(paths)('%s takes numbers, booleans and texts as what they are', async (path) => {
  const { request, engine } = await startServer()
  const form = toForm([
    ['prompt', '12'],
    ['input[num_inference_steps]', '2'],
    ['guidance_scale', '2.5'],
    ['go_fast', 'false'],
    ['megapixels', '0.25'],
    ['seed', ''],
    ['unknown', '1'],
  ])
  const reply = await request(path, { method: 'POST', body: form, headers: { prefer: 'wait' } })
  expect(reply.body).toMatchObject({
    status: 'succeeded',
    input: {
      prompt: '12',
      num_inference_steps: 2,
      guidance_scale: 2.5,
      go_fast: false,
      megapixels: '0.25',
      unknown: '1',
    },
  })
  expect(engine.plans).toMatchObject([{ prompt: '12', size: { width: 512, height: 512 } }])
})

test.each(paths)('%s takes a file as the picture, whatever it is labelled', async (path) => {
  const { request, engine } = await startServer()
  const octets = new Blob([await drawPng()], { type: 'application/octet-stream' })
  const form = toForm([
    ['input', JSON.stringify({ prompt: 'p', num_inference_steps: 1 })],
    ['input[image]', octets],
  ])
  const reply = await request(path, { method: 'POST', body: form, headers: { prefer: 'wait' } })
  expect(reply.body).toMatchObject({
    status: 'succeeded',
    input: { prompt: 'p', image: expect.stringMatching(/^data:image\/png;base64,/) },
  })
  expect(engine.plans).toMatchObject([
    { start: { kind: 'image' }, size: { width: 64, height: 48 } },
  ])
})

test('a file that the browser sends without one being chosen is none', async () => {
  const { request } = await startServer()
  const form = toForm([
    ['prompt', 'p'],
    ['image', new Blob([])],
  ])
  const reply = await request(paths[0]!, { method: 'POST', body: form })
  expect(reply.status).toBe(201)
  expect(reply.body.input).toEqual({ prompt: 'p' })
})

test('what stands beside the input does so in a form too', async () => {
  const { request, services } = await startServer()
  const { version } = services.catalog.find('fluxd', 'flux')!
  const form = toForm([
    ['version', version],
    ['prompt', 'p'],
    ['stream', 'true'],
    ['webhook', 'https://example.com/hook'],
    ['webhook_events_filter[]', 'start'],
    ['webhook_events_filter[]', 'completed'],
  ])
  const reply = await request('/v1/predictions', { method: 'POST', body: form })
  expect(reply.status).toBe(201)
  expect(reply.body).toMatchObject({
    version,
    input: { prompt: 'p' },
    webhook: 'https://example.com/hook',
    webhook_events_filter: ['start', 'completed'],
  })
})

test('what is wrong with a form is said as for JSON', async () => {
  const { request } = await startServer()
  const form = toForm([
    ['num_outputs', 'many'],
    ['go_fast', 'perhaps'],
  ])
  const replicate = await request(paths[0]!, { method: 'POST', body: form })
  expect(replicate.body.detail).toBe(
    '- input: prompt is required\n' +
      '- input.num_outputs: Invalid type. Expected: integer, given: string\n' +
      '- input.go_fast: Invalid type. Expected: boolean, given: string\n',
  )
  const cog = await request('/predictions', { method: 'POST', body: form })
  expect(cog.status).toBe(422)
  expect(cog.body.detail.map(({ loc }: { loc: string[] }) => loc.at(-1))).toEqual([
    'prompt',
    'num_outputs',
    'go_fast',
  ])
  const broken = toForm([['input', '[1']])
  const reply = await request(paths[0]!, { method: 'POST', body: broken })
  expect(reply.status).toBe(400)
  expect(reply.body.detail).toBe('Expected the form field input to be a JSON object')
})

test('a form has at most 64 parts and at most 105 MiB', async () => {
  const { request } = await startServer()
  const many = toForm(Array.from({ length: 65 }, (_, i) => [`f${i}`, 'x'] as const))
  expect((await request(paths[0]!, { method: 'POST', body: many })).status).toBe(413)
  const large = toForm([['image', new Blob([new Uint8Array(106 * 1024 * 1024)])]])
  const reply = await request(paths[0]!, { method: 'POST', body: large })
  expect(reply.status).toBe(413)
  expect(reply.headers.get('content-type')).toBe('application/problem+json')
})

test('a form that breaks off is the fault of its sender', async () => {
  const { request } = await startServer()
  const reply = await request(paths[0]!, {
    method: 'POST',
    headers: { 'content-type': 'multipart/form-data; boundary=x' },
    body: '--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhalf',
  })
  expect(reply.status).toBe(400)
})

test.each([
  ['of text', ''],
  ['of JSON', 'content-type: application/json\r\n'],
  ['that is a file', 'content-type: image/png\r\n'],
])('a part %s without a name is the fault of its sender', async (_kind, header) => {
  const { request } = await startServer()
  for (const path of paths) {
    const { status, body } = await request(path, {
      method: 'POST',
      headers: { 'content-type': 'multipart/form-data; boundary=x' },
      body: `--x\r\ncontent-disposition: form-data\r\n${header}\r\n{"a":1}\r\n--x--\r\n`,
    })
    expect([status, body.detail]).toEqual([400, 'Expected a form whose parts all have names'])
  }
})
