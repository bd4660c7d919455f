/** Against a real receiver over HTTP and a real store. */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { afterEach, expect, test, vi } from 'vitest'
import type { Prediction, WebhookEvent } from '../../../src/contract/prediction.js'
import { FluxdError } from '../../../src/errors.js'
import { createGuardedClient } from '../../../src/net/guardedClient.js'
import { createPrediction, log, start, succeed } from '../../../src/predictions/prediction.js'
import { createWebhooks, retryDelayMs } from '../../../src/server/predictions/webhooks.js'
import { openDatabase } from '../../../src/store/sqlite/database.js'
import {
  createDeliveryStore,
  createDeliveryTable,
} from '../../../src/store/sqlite/webhookDeliveries.js'

const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'

type Received = {
  readonly headers: Record<string, string>
  readonly body: string
  readonly at: number
}
const closing: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

/** Answers with the statuses in turn, then with 200. */
async function startReceiver(statuses: number[] = []) {
  const received: Received[] = []
  const server = createServer(async (request, response) => {
    const body = await readText(request)
    received.push({ headers: request.headers as Record<string, string>, body, at: Date.now() })
    response.writeHead(statuses.shift() ?? 200, { location: '/elsewhere' }).end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(() => server.close())
  return { received, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook` }
}

async function readText(request: IncomingMessage) {
  let text = ''
  for await (const chunk of request) text += chunk
  return text
}

/** The first `failures` records of attempts fail as on a full disk. */
function startWebhooks(path = ':memory:', allowAddress = () => true, failures = 0) {
  const database = openDatabase(path)
  const client = createGuardedClient({ allowAddress })
  const predictions = new Map<string, Prediction>()
  const deliveries = createDeliveryStore(database, createDeliveryTable(database))
  const webhooks = createWebhooks({
    client,
    deliveries: {
      ...deliveries,
      record: async (id, attempt) => {
        if (failures-- > 0) throw new FluxdError('storage_full', 'the disk is full')
        return deliveries.record(id, attempt)
      },
    },
    find: async (id) => predictions.get(id),
    describe: async ({ id, status, logs }) => JSON.stringify({ id, status, logs }),
    secret,
    token: 'for-the-receiver',
    onFault: () => {},
  })
  const stop = async () => {
    await webhooks.stop()
    await client.close()
    if (database.sqlite.open) database.close()
  }
  closing.push(stop)
  return {
    ...webhooks,
    stop,
    /** What the store and the feed do: the delivery is written with the state. */
    async tell(prediction: Prediction, event: WebhookEvent) {
      predictions.set(prediction.id, prediction)
      if (event === 'completed') await deliveries.addCompleted(prediction)
      webhooks.onEvent(prediction, event)
    },
  }
}

const starting = (url: string, events: WebhookEvent[] = ['start', 'output', 'logs', 'completed']) =>
  createPrediction({
    id: 'p',
    surface: 'replicate',
    model: 'fofr/shxdo-v2',
    version: '0'.repeat(64),
    input: {},
    createdAt: new Date(),
    webhook: { url, events },
    streamToken: 't',
  })

test("the signature is that of replicate's own test", () => {
  const signature = new Webhook(secret).sign(
    'msg_p5jXN8AQM9LWM0D4loKWxJek',
    new Date(1614265330 * 1000),
    '{"test": 2432232314}',
  )
  expect(signature).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})

test('a finished prediction is told, signed over the bytes that are sent', async () => {
  const { received, url } = await startReceiver()
  const { tell, listDeliveries } = startWebhooks()
  await tell(succeed(starting(url)), 'completed')
  await vi.waitFor(() => expect(received).toHaveLength(1))
  const { headers, body } = received[0]!
  expect(new Webhook(secret).verify(body, headers)).toMatchObject({ id: 'p', status: 'succeeded' })
  expect(headers).toMatchObject({
    'content-type': 'application/json',
    authorization: 'Bearer for-the-receiver',
  })
  await vi.waitFor(async () => expect((await listDeliveries('p'))[0]?.settledAt).toBeDefined())
  expect(await listDeliveries('p')).toMatchObject([
    { event: 'completed', attempts: 1, error: undefined },
  ])
})

test.each([503, 429, 404, 302])(
  'a receiver that answers %i is told again, with the same id',
  async (status) => {
    const { received, url } = await startReceiver([status])
    const { tell, listDeliveries } = startWebhooks()
    await tell(succeed(starting(url)), 'completed')
    await vi.waitFor(async () =>
      expect((await listDeliveries('p'))[0]?.error).toContain(`status ${status}`),
    )
    await vi.waitFor(() => expect(received).toHaveLength(2), 3000)
    expect(received[1]!.headers['webhook-id']).toBe(received[0]!.headers['webhook-id'])
    expect(received[1]!.at - received[0]!.at).toBeGreaterThan(900)
    expect(received.map(({ headers }) => headers['host'])).toEqual(Array(2).fill(new URL(url).host))
  },
)

test('a delivery whose record finds the disk full is not sent again', async () => {
  const { received, url } = await startReceiver()
  const { tell, listDeliveries } = startWebhooks(':memory:', () => true, 2)
  await tell(succeed(starting(url)), 'completed')
  await tell(createPrediction({ ...starting(url), id: 'other' }), 'start')
  await vi.waitFor(
    async () => expect((await listDeliveries('p'))[0]?.settledAt).toBeDefined(),
    10_000,
  )
  expect(received.filter(({ body }) => JSON.parse(body).id === 'p')).toHaveLength(1)
})

test('delays double up to five minutes, about 19 minutes in all', () => {
  const delays = Array.from({ length: 11 }, (_, i) => retryDelayMs(i + 1) / 1000)
  expect(delays).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300])
})

test('a delivery survives the end of the server', async () => {
  const path = `${(await import('node:os')).tmpdir()}/fluxd-webhooks-${process.pid}.sqlite`
  const { received, url } = await startReceiver([500])
  const first = startWebhooks(path)
  const prediction = succeed(starting(url))
  await first.tell(prediction, 'completed')
  await vi.waitFor(async () => expect((await first.listDeliveries('p'))[0]?.attempts).toBe(1))
  await first.stop()

  const second = startWebhooks(path)
  await second.tell(prediction, 'logs')
  await vi.waitFor(() => expect(received.length).toBeGreaterThan(1), 3000)
  await vi.waitFor(
    async () => expect((await second.listDeliveries('p'))[0]?.settledAt).toBeDefined(),
    3000,
  )
  expect((await second.listDeliveries('p'))[0]).toMatchObject({ attempts: 2, error: undefined })
})

test('many log lines are told at most twice a second, the last of them always', async () => {
  const { received, url } = await startReceiver()
  const { tell } = startWebhooks()
  let prediction = start(starting(url), '')
  for (let i = 0; i < 50; i++) {
    prediction = log(prediction, `line ${i}`)
    await tell(prediction, 'logs')
  }
  await vi.waitFor(() => expect(received).toHaveLength(1), 2000)
  expect(JSON.parse(received[0]!.body).logs).toContain('line 49')
})

test('after completed nothing older is told', async () => {
  const { received, url } = await startReceiver()
  const { tell } = startWebhooks()
  const prediction = start(starting(url), '')
  await tell(prediction, 'logs')
  await tell(succeed(prediction), 'completed')
  await new Promise((resolve) => setTimeout(resolve, 800))
  expect(received.map(({ body }) => JSON.parse(body).status)).toEqual(['succeeded'])
})

test('only what was asked for is told', async () => {
  const { received, url } = await startReceiver()
  const { tell } = startWebhooks()
  const prediction = starting(url, ['completed'])
  await tell(start(prediction, ''), 'start')
  await tell(start(prediction, ''), 'logs')
  await tell(succeed(prediction), 'completed')
  await vi.waitFor(() => expect(received).toHaveLength(1))
})

test('an address that may not be reached is given up at once, with the reason', async () => {
  const { received, url } = await startReceiver()
  const { tell, listDeliveries } = startWebhooks(':memory:', () => false)
  await tell(succeed(starting(url)), 'completed')
  await vi.waitFor(async () => expect((await listDeliveries('p'))[0]?.settledAt).toBeDefined())
  expect((await listDeliveries('p'))[0]!.error).toContain('Expected the URL of a public server')
  expect(received).toHaveLength(0)
})

test('a finished prediction can be told again, as a new delivery', async () => {
  const { received, url } = await startReceiver()
  const { tell, redeliver, listDeliveries } = startWebhooks()
  const prediction = succeed(starting(url))
  await tell(prediction, 'completed')
  await redeliver(prediction)
  await vi.waitFor(() => expect(received).toHaveLength(2))
  expect(new Set(received.map(({ headers }) => headers['webhook-id'])).size).toBe(2)
  expect(await listDeliveries('p')).toHaveLength(2)
})
