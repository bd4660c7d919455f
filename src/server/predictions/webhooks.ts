/**
 * Webhooks: tells a prediction's receiver what happens to it. `completed` is stored together with
 * the state it reports and is sent until it arrives or is given up, also after a restart. The
 * others are sent once: `output` and `logs` at most twice a second, the last of them always.
 * Source: replicate-contract §2.7 and §3.10; signatures by standardwebhooks.com.
 */
import { Webhook } from 'standardwebhooks'
import type { Prediction, WebhookEvent } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import { discard, type GuardedClient } from '../../net/guardedClient.js'
import type { Attempt, Delivery, DeliveryStore } from '../../store/sqlite/webhookDeliveries.js'
import type { EventHook } from './service.js'

export type WebhookOptions = {
  readonly client: Pick<GuardedClient, 'post'>
  readonly deliveries: DeliveryStore
  readonly find: (predictionId: string) => Promise<Prediction | undefined>
  /** The body, as the prediction's surface shows it: JSON. */
  readonly describe: (prediction: Prediction) => Promise<string>
  /** `whsec_…` */
  readonly secret: string
  /** Sent as `Authorization: Bearer`. */
  readonly token?: string | undefined
  /** Told of every attempt at a `completed`. */
  readonly onAttempt?: (delivery: Delivery, attempt: Attempt) => void
  readonly drawId: () => string
}

export type Webhooks = {
  readonly onEvent: EventHook
  /** Sends a finished prediction's `completed` again, as a new delivery. */
  readonly redeliver: (prediction: Prediction) => Promise<void>
  readonly listDeliveries: (predictionId: string) => Promise<readonly Delivery[]>
  /** Sends what is due now and nothing more; resolves when that has ended. The rest stays stored. */
  readonly stop: () => Promise<void>
}

const coalesceMs = 500
const timeoutMs = 10_000
const maxAttempts = 12
const maxDelayMs = 300_000
const keptMs = 7 * 24 * 3600 * 1000
const maxInFlight = 32

/** Before attempt n + 1: 1, 2, 4, … seconds, at most five minutes; about 19 minutes in all. */
export const retryDelayMs = (attempts: number) => Math.min(1000 * 2 ** (attempts - 1), maxDelayMs)

export function createWebhooks(options: WebhookOptions): Webhooks {
  const { client, deliveries, find, describe, drawId } = options
  const signer = new Webhook(options.secret)
  const waiting = new Map<string, NodeJS.Timeout>()
  const inFlight = new Map<string, Promise<void>>()
  let alarm: NodeJS.Timeout | undefined
  let stopped = false

  async function post(prediction: Prediction, id: string): Promise<void> {
    // Signed are the very bytes that are sent, and the time of this attempt.
    const body = await describe(prediction)
    const now = new Date()
    const reply = await client.post(prediction.webhook!.url, body, {
      bearer: options.token,
      headers: {
        'content-type': 'application/json',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
        'webhook-signature': signer.sign(id, now, body),
      },
      signal: AbortSignal.timeout(timeoutMs),
    })
    discard(reply)
    if (reply.statusCode >= 300)
      throw new Error(`the receiver answered with status ${reply.statusCode}`)
  }

  function onEvent(prediction: Prediction, event: WebhookEvent): void {
    const isCompleted = event === 'completed'
    if (isCompleted) forgetWaiting(prediction.id)
    if (!prediction.webhook?.events.includes(event)) return
    if (isCompleted) redeliver(prediction)
    else if (event === 'start') sendSoon(prediction.id)
    else coalesce(prediction.id)
  }

  function redeliver({ id }: Prediction): void {
    const now = new Date()
    deliveries.add({ id: drawId(), predictionId: id, event: 'completed', createdAt: now })
    // Not before the transaction that this is part of is over.
    setAlarm(now)
  }

  /** What happens within the interval is told by one request at its end. */
  function coalesce(predictionId: string): void {
    if (waiting.has(predictionId)) return
    const send = () => {
      waiting.delete(predictionId)
      sendSoon(predictionId)
    }
    waiting.set(predictionId, setTimeout(send, coalesceMs).unref())
  }

  function forgetWaiting(predictionId: string): void {
    clearTimeout(waiting.get(predictionId))
    waiting.delete(predictionId)
  }

  /** Not before the transaction that this may be part of is over. */
  function sendSoon(predictionId: string): void {
    track(drawId(), Promise.resolve(predictionId).then(sendOnce))
  }

  async function sendOnce(predictionId: string): Promise<void> {
    const prediction = await find(predictionId)
    // A receiver that misses one of these learns everything from `completed`.
    if (prediction) await post(prediction, drawId()).catch(() => {})
  }

  /** Sends what is due as far as there is room, and wakes up for what is due next. */
  function sendDue(): void {
    const pending = deliveries.listPending(maxInFlight + 1).filter(({ id }) => !inFlight.has(id))
    for (const delivery of pending) {
      if (inFlight.size >= maxInFlight) return
      if (delivery.dueAt! > new Date()) {
        setAlarm(delivery.dueAt!)
        return
      }
      track(delivery.id, deliver(delivery))
    }
  }

  async function deliver(delivery: Delivery): Promise<void> {
    const attempt = await attemptOf(delivery)
    deliveries.record(delivery.id, attempt)
    options.onAttempt?.(delivery, attempt)
  }

  async function attemptOf(delivery: Delivery): Promise<Attempt> {
    const prediction = await find(delivery.predictionId)
    if (!prediction?.webhook)
      return { kind: 'given up', at: new Date(), error: 'the prediction is gone' }
    try {
      await post(prediction, delivery.id)
      return { kind: 'arrived', at: new Date() }
    } catch (error) {
      return afterFailure(delivery.attempts + 1, error)
    }
  }

  function track(key: string, work: Promise<void>): void {
    const done = work.finally(() => {
      inFlight.delete(key)
      if (!stopped) sendDue()
    })
    inFlight.set(key, done)
  }

  function setAlarm(time: Date): void {
    clearTimeout(alarm)
    if (stopped) return
    alarm = setTimeout(sendDue, Math.max(0, time.getTime() - Date.now())).unref()
  }

  deliveries.removeSettled(new Date(Date.now() - keptMs))
  setAlarm(new Date())

  return {
    onEvent,
    redeliver: async (prediction) => redeliver(prediction),
    listDeliveries: async (id) => deliveries.listOfPrediction(id),
    async stop() {
      if (!stopped) sendDue()
      stopped = true
      clearTimeout(alarm)
      for (const timer of waiting.values()) clearTimeout(timer)
      await Promise.allSettled(inFlight.values())
    },
  }
}

function afterFailure(attempts: number, error: unknown): Attempt {
  const reason = error instanceof Error ? error.message : String(error)
  // A URL that may not be fetched will not become one that may.
  const isHopeless = error instanceof FluxdError && error.code === 'invalid_input'
  if (isHopeless || attempts >= maxAttempts)
    return { kind: 'given up', at: new Date(), error: reason }
  return { kind: 'postponed', until: new Date(Date.now() + retryDelayMs(attempts)), error: reason }
}
