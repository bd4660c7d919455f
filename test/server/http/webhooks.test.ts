/** Webhooks over the whole server: what a receiver gets, and what can be asked about it. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { expect, onTestFinished, test, vi } from 'vitest'
import { buildTestApp } from './testApp.js'

const model = '/v1/models/fluxd/flux/predictions'

async function startReceiver(status = () => 200) {
  const received: { headers: Record<string, string>; text: string }[] = []
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    received.push({ headers: request.headers as Record<string, string>, text })
    response.writeHead(status()).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
  })
  const bodies = () => received.map(({ text }) => JSON.parse(text))
  return { received, bodies, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
}

const local = { FLUXD_ALLOWED_HOSTS: '127.0.0.1', FLUXD_PUBLIC_URL: 'https://flux.example' }

test('the receiver gets what GET answers with, signed with the secret that clients can read', async () => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp({}, undefined, local)
  const payload = {
    input: { prompt: 'p' },
    webhook: receiver.url,
    webhook_events_filter: ['completed'],
  }
  const { id } = (await app.inject({ method: 'POST', url: model, payload })).json()
  await vi.waitFor(() => expect(receiver.received).toHaveLength(1))
  const found = (await app.inject(`/v1/predictions/${id}`)).json()
  expect(receiver.bodies()[0]).toEqual(found)
  expect(found.output[0]).toMatch(/^https:\/\/flux\.example\/files\//)
  const { key } = (await app.inject('/v1/webhooks/default/secret')).json()
  const { headers, text } = receiver.received[0]!
  expect(new Webhook(key).verify(text, headers)).toMatchObject({ id, status: 'succeeded' })
})

test('without a public URL the receiver gets that of the host which the request was sent to', async () => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp({}, undefined, { FLUXD_ALLOWED_HOSTS: '127.0.0.1' })
  const payload = { input: { prompt: 'p' }, webhook: receiver.url }
  const headers = { host: 'fluxd.localhost:5000' }
  await app.inject({ method: 'POST', url: model, payload, headers })
  await vi.waitFor(() => expect(receiver.bodies().at(-1)?.status).toBe('succeeded'))
  const { output, urls } = receiver.bodies().at(-1)
  expect(output[0]).toMatch(/^http:\/\/fluxd\.localhost:5000\/files\//)
  expect(urls.get).toMatch(/^http:\/\/fluxd\.localhost:5000\/v1\/predictions\//)
})

test('start is told as processing, and completed is the last', async () => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp({}, undefined, local)
  const payload = { input: { prompt: 'p' }, webhook: receiver.url }
  await app.inject({ method: 'POST', url: model, payload })
  await vi.waitFor(() => expect(receiver.bodies().at(-1)?.status).toBe('succeeded'))
  expect(receiver.bodies()[0].status).not.toBe('starting')
})

test.each([
  ['/predictions', { image: 'data:text/plain,hello' }],
  [model, { aspect_ratio: 'custom' }],
  [model, { replicate_weights: 'huggingface.co/nowhere' }],
])('start is told before the end of what fails early too: %s %j', async (url, fault) => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp({}, undefined, local)
  const payload = {
    input: { prompt: 'p', ...fault },
    webhook: receiver.url,
    webhook_events_filter: ['start', 'completed'],
  }
  await app.inject({ method: 'POST', url, payload })
  await vi.waitFor(() => expect(receiver.received).toHaveLength(2))
  const [began, ended] = receiver.bodies().sort((a) => (a.completed_at === null ? -1 : 1))
  expect(began).toMatchObject({ status: 'processing', error: null, completed_at: null })
  expect(ended).toMatchObject({ status: 'failed', started_at: began.started_at })
  expect(new Date(ended.started_at).getTime()).toBeGreaterThan(0)
})

test('a Cog prediction is told as Cog shows it, with its pictures in it', async () => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp({}, undefined, local)
  const payload = {
    id: 'mine',
    input: { prompt: 'p' },
    webhook: receiver.url,
    webhook_events_filter: ['completed'],
  }
  await app.inject({ method: 'POST', url: '/predictions', payload })
  await vi.waitFor(() => expect(receiver.received).toHaveLength(1))
  expect(receiver.bodies()[0]).toMatchObject({ id: 'mine', status: 'succeeded' })
  expect(receiver.bodies()[0].output[0]).toMatch(/^data:image\/webp;base64,/)
})

test('its deliveries can be read, and sent once more', async () => {
  let status = 500
  const receiver = await startReceiver(() => status)
  const { app } = await buildTestApp({}, undefined, local)
  const payload = {
    input: { prompt: 'p' },
    webhook: receiver.url,
    webhook_events_filter: ['completed'],
  }
  const { id } = (await app.inject({ method: 'POST', url: model, payload })).json()
  const url = `/v1/predictions/${id}/deliveries`
  const read = async () => (await app.inject(url)).json().results
  await vi.waitFor(async () =>
    expect(await read()).toMatchObject([
      { event: 'completed', status: 'pending', attempts: 1, error: expect.stringContaining('500') },
    ]),
  )
  status = 200
  expect((await app.inject({ method: 'POST', url })).statusCode).toBe(201)
  await vi.waitFor(async () =>
    expect((await read()).map((delivery: { status: string }) => delivery.status)).toContain(
      'delivered',
    ),
  )
})

test('there is nothing to deliver for a prediction without a webhook', async () => {
  const { app } = await buildTestApp()
  const { id } = (
    await app.inject({ method: 'POST', url: model, payload: { input: { prompt: 'p' } } })
  ).json()
  const reply = await app.inject({ method: 'POST', url: `/v1/predictions/${id}/deliveries` })
  expect([reply.statusCode, reply.json().detail]).toEqual([
    422,
    'Expected a prediction that was created with a webhook',
  ])
  expect((await app.inject('/v1/predictions/nobody/deliveries')).statusCode).toBe(404)
})

test('a receiver in the server’s own network is not reached', async () => {
  const receiver = await startReceiver()
  const { app } = await buildTestApp()
  const payload = { input: { prompt: 'p' }, webhook: receiver.url }
  const { id } = (await app.inject({ method: 'POST', url: model, payload })).json()
  await vi.waitFor(async () => {
    const [delivery] = (await app.inject(`/v1/predictions/${id}/deliveries`)).json().results
    expect(delivery).toMatchObject({
      status: 'failed',
      error: expect.stringContaining('public server'),
    })
  })
  expect(receiver.received).toHaveLength(0)
})

test.each([{}, { prefer: 'respond-async' }])(
  'webhooks of the Cog surface carry the trace of their request (%j)',
  async (preference) => {
    const receiver = await startReceiver()
    const { app } = await buildTestApp({}, undefined, local)
    const trace = {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      tracestate: 'vendor=value',
    }
    await app.inject({
      method: 'POST',
      url: '/predictions',
      headers: { ...trace, ...preference },
      payload: { input: { prompt: 'p' }, webhook: receiver.url },
    })
    await vi.waitFor(() => expect(receiver.bodies().at(-1)?.status).toBe('succeeded'))
    for (const { headers } of receiver.received) expect(headers).toMatchObject(trace)
  },
)
