/** Webhooks in the eyes of their receiver, with the check that the official client brings. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { validateWebhook } from 'replicate'
import { expect, onTestFinished, test, vi } from 'vitest'
import { startServer } from './server.js'

type Received = { readonly headers: Record<string, string>; readonly body: string }

/** Answers each request with the next of `statuses`, then with 200. */
async function startReceiver(statuses: number[] = []) {
  const received: Received[] = []
  const server = createServer(async (request, reply) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    received.push({
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(chunks).toString(),
    })
    reply.writeHead(statuses.shift() ?? 200).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
  })
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook` }
}

const environment = { FLUXD_ALLOWED_HOSTS: '127.0.0.1' }
const input = { prompt: 'p', num_inference_steps: 2 }
const statusOf = ({ body }: Received) => JSON.parse(body).status as string

test('start and completed carry what GET tells, and the signature that the client checks', async () => {
  const receiver = await startReceiver()
  const { replicate, url } = await startServer({
    environment: { ...environment, FLUXD_PUBLIC_URL: 'https://fluxd.example' },
  })
  const created = await replicate.predictions.create({
    model: 'fluxd/flux',
    input,
    webhook: receiver.url,
    webhook_events_filter: ['start', 'completed'],
    wait: true,
  })
  await vi.waitFor(() => expect(receiver.received.map(statusOf)).toHaveLength(2))
  expect(receiver.received.map(statusOf).sort()).toEqual(['processing', 'succeeded'])
  const completed = receiver.received.find((one) => statusOf(one) === 'succeeded')!
  const told = await replicate.predictions.get(created.id)
  expect(JSON.parse(completed.body)).toEqual(told)
  expect(url).not.toContain('fluxd.example')
  const { key } = await replicate.webhooks.default.secret.get()
  for (const { headers, body } of receiver.received) {
    const [id, timestamp, signature] = [
      headers['webhook-id']!,
      headers['webhook-timestamp']!,
      headers['webhook-signature']!,
    ]
    expect(await validateWebhook({ id, timestamp, signature, body, secret: key })).toBe(true)
    const forged = { id, timestamp, signature, body: `${body} `, secret: key }
    expect(await validateWebhook(forged)).toBe(false)
  }
})

test('completed is sent again until it arrives, under the same id', async () => {
  const receiver = await startReceiver([500])
  const { replicate } = await startServer({ environment })
  await replicate.predictions.create({
    model: 'fluxd/flux',
    input,
    webhook: receiver.url,
    webhook_events_filter: ['completed'],
  })
  await vi.waitFor(() => expect(receiver.received).toHaveLength(2), { timeout: 5000 })
  const ids = receiver.received.map(({ headers }) => headers['webhook-id'])
  expect(ids[0]).toBe(ids[1])
})
