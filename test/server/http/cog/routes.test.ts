import { type AddressInfo, connect, type Socket } from 'node:net'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { FluxdError } from '../../../../src/errors.js'
import { buildTestApp } from '../testApp.js'

const utcTime = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

describe('a prediction that succeeds', () => {
  test('answers 200 with every field of Cog and the picture as a data URI', async () => {
    const { predict } = await buildTestApp()
    const input = { prompt: 'a red circle', seed: 7, num_inference_steps: 2 }
    const { status, body } = await predict({ input })
    expect(status).toBe(200)
    expect(body).toEqual({
      input,
      output: [expect.stringMatching(/^data:image\/webp;base64,[A-Za-z0-9+/]+=*$/)],
      id: expect.stringMatching(/^[0-9a-z]{26}$/),
      version: null,
      created_at: null,
      started_at: expect.stringMatching(utcTime),
      completed_at: expect.stringMatching(utcTime),
      logs: expect.any(String),
      error: null,
      status: 'succeeded',
      metrics: {
        predict_time: expect.any(Number),
        total_time: expect.any(Number),
        image_count: 1,
        lora_switch_ms: 0,
      },
    })
    const picture = await sharp(Buffer.from(body.output[0].split(',')[1], 'base64')).metadata()
    expect(picture).toMatchObject({ format: 'webp', width: 32 })
  })

  test('logs its seed, its prompt and its steps as clients read them', async () => {
    const { predict } = await buildTestApp()
    const input = { prompt: 'p', seed: 7, num_inference_steps: 2, num_outputs: 2 }
    const { body } = await predict({ input })
    const lines = body.logs.split('\n')
    expect(lines.slice(0, 4)).toEqual([
      'No safety checker is installed: the output is not checked',
      'Using seed: 7',
      'Prompt: p',
      '[!] txt2img mode',
    ])
    expect(lines.slice(4, -1).map((line: string) => line.slice(0, 4).trim())).toEqual([
      '0%',
      '25%',
      '50%',
      '75%',
      '100%',
    ])
    expect(lines.at(-1)).toBe('')
  })

  test('gives back id and created_at as they were sent', async () => {
    const { predict } = await buildTestApp()
    const origin = { id: 'my-id', created_at: '2026-01-02T03:04:05Z' }
    const { body } = await predict({ ...origin, input: { prompt: '' } })
    expect(body).toMatchObject(origin)
  })

  test('has one output for each picture, in the format asked for', async () => {
    const { predict } = await buildTestApp()
    const { body } = await predict({ input: { prompt: '', num_outputs: 3, output_format: 'jpg' } })
    expect(body.output).toHaveLength(3)
    expect(body.output[2]).toMatch(/^data:image\/jpeg;base64,/)
  })

  test('takes a 16-bit seed of its own where none is sent', async () => {
    const { predict, engine } = await buildTestApp()
    const { body } = await predict({ input: { prompt: '', seed: -1 } })
    const seed = engine.plans[0]!.seed
    expect(seed).toBeGreaterThanOrEqual(0)
    expect(seed).toBeLessThan(65536)
    expect(body.logs).toContain(`Using seed: ${seed}\n`)
  })

  test('null counts as absent, and unknown fields are dropped but echoed', async () => {
    const { predict } = await buildTestApp()
    const input = { prompt: 'p', seed: null, image: null, negative_prompt: 'blur' }
    const { status, body } = await predict({ input, webhook: null, unknown: 1 })
    expect(status).toBe(200)
    expect(body.input).toEqual(input)
  })
})

describe('a prediction that fails', () => {
  test.each([
    [new FluxdError('engine_failed', 'The engine process was killed')],
    [new FluxdError('checkpoint_invalid', 'Expected vae/config.json in /models')],
    [new Error('out of memory')],
  ])('answers 200 with status failed and the reason: %s', async (failure) => {
    const { predict } = await buildTestApp({ failure })
    const { status, body } = await predict({ input: { prompt: '', seed: 5 } })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      status: 'failed',
      error: failure.message,
      output: null,
      completed_at: expect.stringMatching(utcTime),
    })
    expect(body.logs).toContain('Using seed: 5\n')
  })

  test('custom without width and height is a failed prediction that never reaches the engine', async () => {
    const { predict, engine } = await buildTestApp()
    const { status, body } = await predict({ input: { prompt: '', aspect_ratio: 'custom' } })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      status: 'failed',
      error: "width and height must be defined if aspect ratio is 'custom'",
    })
    expect(engine.plans).toEqual([])
  })

  test('does not keep the next one from running', async () => {
    const { predict, engine } = await buildTestApp()
    await predict({ input: { prompt: '', aspect_ratio: 'custom' } })
    const { body } = await predict({ input: { prompt: '' } })
    expect(body.status).toBe('succeeded')
    expect(engine.plans).toHaveLength(1)
  })
})

test('a LoRA is loaded before the seed is told, and its time is measured', async () => {
  const { predict, engine } = await buildTestApp()
  const input = { prompt: 'p', seed: 7, replicate_weights: 'fofr/shxdo-v2', lora_scale: 0.5 }
  const { body } = await predict({ input: { ...input, disable_safety_checker: true } })
  expect(engine.plans[0]!.loras).toMatchObject([
    { path: expect.stringMatching(/fofr--shxdo-v2\.safetensors$/), scale: 0.5 },
  ])
  expect(body.logs.split('\n').slice(0, 3)).toEqual([
    'Loaded LoRAs in 0.25s',
    'Using seed: 7',
    'Prompt: p',
  ])
  // What the fake engine reports, and how long the file on this disk took.
  expect(body.metrics.lora_switch_ms).toBeGreaterThanOrEqual(250)
  expect(body.metrics.lora_switch_ms).toBeLessThan(30_000)
})

test('a LoRA reference that is none fails the prediction with the words of the reference', async () => {
  const { predict, engine } = await buildTestApp()
  const { status, body } = await predict({ input: { prompt: '', extra_lora: 'what is this' } })
  expect(status).toBe(200)
  expect(body).toMatchObject({
    status: 'failed',
    error: expect.stringMatching(/^Failed to parse URL\. Expected either:/),
  })
  expect(engine.plans).toEqual([])
})

test('the model that is served is a setting, and its defaults and LoRAs count', async () => {
  const { predict, engine } = await buildTestApp({}, undefined, {
    FLUXD_COG_MODEL: 'fofr/shxdo-v2',
  })
  const { body } = await predict({ input: { prompt: '' } })
  expect(body.status).toBe('succeeded')
  expect(engine.plans[0]!.loras).toMatchObject([
    { path: expect.stringMatching(/fofr--shxdo-v2\.safetensors$/) },
  ])
})

describe('a webhook', () => {
  test.each([
    ['webhook', 'ftp://a.example', 'Expected an http or https URL'],
    ['output_file_prefix', '/tmp/', 'Expected an http or https URL'],
  ])('or prefix that is no URL is a 422: %s', async (field, value, msg) => {
    const { predict } = await buildTestApp()
    const { status, body } = await predict({ input: { prompt: '' }, [field]: value })
    expect(status).toBe(422)
    expect(body.detail).toEqual([{ loc: ['body', field], msg, type: 'value_error' }])
  })

  test('is kept with its events, all four by default', async () => {
    const { predict, app } = await buildTestApp()
    const webhook = 'http://a.example/hook'
    const one = await predict({ input: { prompt: '' }, webhook })
    const two = await predict({
      input: { prompt: '' },
      webhook,
      webhook_events_filter: ['completed'],
    })
    const webhookOf = async (id: string) => (await app.predictions.get(id))!.webhook
    expect(await webhookOf(one.body.id)).toMatchObject({
      url: webhook,
      events: ['start', 'output', 'logs', 'completed'],
    })
    expect(await webhookOf(two.body.id)).toMatchObject({ url: webhook, events: ['completed'] })
  })
})

test('predictions run one at a time, in order of arrival', async () => {
  let open = () => {}
  const gate = new Promise<void>((resolve) => {
    open = resolve
  })
  const { predict, engine } = await buildTestApp({ gate })
  const first = predict({ input: { prompt: 'first', seed: 1 } })
  await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
  const second = predict({ input: { prompt: 'second', seed: 2 } })
  await new Promise((resolve) => setTimeout(resolve, 30))
  expect(engine.plans.map(({ seed }) => seed)).toEqual([1])
  open()
  const [one, two] = await Promise.all([first, second])
  expect(engine.plans.map(({ seed }) => seed)).toEqual([1, 2])
  expect(two.body.started_at >= one.body.completed_at).toBe(true)
})

test('closing the server cancels what runs and what waits, and answers both', async () => {
  const { app, predict, engine } = await buildTestApp({ gate: new Promise(() => {}) })
  const running = predict({ input: { prompt: '', seed: 1 } })
  const waiting = predict({ input: { prompt: '', seed: 2 } })
  await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
  await app.close()
  const replies = await Promise.all([running, waiting])
  expect(replies.map(({ body }) => body.status)).toEqual(['canceled', 'canceled'])
  expect(engine.canceledSeeds).toEqual([1])
  expect(engine.plans).toHaveLength(1)
})

describe('a client that hangs up', () => {
  const send = (socket: Socket, seed: number) => {
    const body = JSON.stringify({ input: { prompt: '', seed } })
    socket.write(
      `POST /predictions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n` +
        `content-length: ${body.length}\r\n\r\n${body}`,
    )
  }

  test('cancels its prediction, and the one that waits behind it runs', async () => {
    let open = () => {}
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    const { app, engine } = await buildTestApp({ gate })
    await app.listen({ host: '127.0.0.1', port: 0 })
    const { port } = app.server.address() as AddressInfo
    const [leaving, staying] = [connect(port), connect(port)]
    send(leaving, 1)
    await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
    send(staying, 2)
    leaving.destroy()
    await vi.waitFor(() => expect(engine.canceledSeeds).toEqual([1]))
    await vi.waitFor(() => expect(engine.plans).toHaveLength(2))
    open()
    const reply = await new Promise<Buffer>((resolve) => staying.once('data', resolve))
    expect(reply.toString()).toContain('"status":"succeeded"')
    staying.destroy()
  })
})

test('GET / lists the routes that are there', async () => {
  const { app } = await buildTestApp()
  const index = (await app.inject('/')).json<Record<string, string>>()
  expect(Object.keys(index)).toEqual([
    'cog_version',
    'docs_url',
    'openapi_url',
    'shutdown_url',
    'healthcheck_url',
    'predictions_url',
    'predictions_idempotent_url',
    'predictions_cancel_url',
  ])
  for (const url of [index['openapi_url'], index['healthcheck_url']])
    expect((await app.inject(url!)).statusCode).toBe(200)
})

test('GET /openapi.json describes the input', async () => {
  const { app } = await buildTestApp()
  const document = (await app.inject('/openapi.json')).json()
  expect(document.openapi).toBe('3.0.2')
  expect(document.components.schemas.Input.required).toEqual(['prompt'])
  expect(Object.keys(document.paths)).toEqual([
    '/',
    '/health-check',
    '/predictions',
    '/predictions/{prediction_id}',
    '/predictions/{prediction_id}/cancel',
    '/shutdown',
  ])
})
