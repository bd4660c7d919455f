/**
 * Webhooks: posts what happens to a prediction to its receiver. `completed` is stored together with
 * the state it reports and is sent until it arrives or is given up, also after a restart. The
 * others are sent once: `output` and `logs` at most twice a second, the last of them always.
 * Source: C-2.7 and C-3.10; signatures by standardwebhooks.com.
 */
import { randomUUID } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import type { Prediction, WebhookEvent } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import { discard, type GuardedClient } from '../../net/guardedClient.js'
import type { EventHook } from '../../predictions/feed.js'
import type { Attempt, Delivery, DeliveryStore } from '../../store/deliveryStore.js'
import { retryWrite } from '../../store/retryWrite.js'

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
  /** Receives every attempt at a `completed`. */
  readonly onAttempt?: (delivery: Delivery, attempt: Attempt) => void
  /** Receives what went wrong with one that is sent once. */
  readonly onMissed?: (predictionId: string, error: unknown) => void
  readonly onFault: (error: unknown) => void
}

export type Webhooks = {
  readonly onEvent: EventHook
  /** Sends a finished prediction's `completed` again, as a new delivery. */
  readonly redeliver: (prediction: Prediction) => Promise<void>
  readonly listDeliveries: (predictionId: string) => Promise<readonly Delivery[]>
  /**
   * Sends what is due now and nothing more; resolves when that has ended. The rest stays stored.
   */
  readonly stop: () => Promise<void>
}

const coalesceMs = 500
const timeoutMs = 10_000
const maxAttempts = 12
const maxDelayMs = 300_000
const keptMs = 7 * 24 * 3600 * 1000
const maxInFlight = 32
// A clock that is set back makes what is due seem far away.
const longestDelayMs = 60_000
// Of a store that could not be read.
const retryMs = 1000

/** Before attempt n + 1: 1, 2, 4, … seconds, at most five minutes; about 19 minutes in all. */
export const retryDelayMs = (attempts: number) => Math.min(1000 * 2 ** (attempts - 1), maxDelayMs)

export function createWebhooks(options: WebhookOptions): Webhooks {
  const { deliveries, find } = options
  const post = createPoster(options)
  /** By prediction: an `output` or `logs` that waits for more to come. */
  const coalescing = new Map<string, NodeJS.Timeout>()
  const inFlight = new Map<string, Promise<void>>()
  let alarm: NodeJS.Timeout | undefined
  let isLooking = false
  let isStopped = false
  const stopping = new AbortController()

  function onEvent(prediction: Prediction, event: WebhookEvent): void {
    const { id, webhook } = prediction
    if (!webhook) return
    if (event === 'completed') onCompleted(id, webhook.events)
    else if (!webhook.events.includes(event)) return
    else if (event === 'start') sendOnce(id)
    else coalesce(id)
  }

  /** What was waiting to be coalesced is sent, unless `completed` says the same. */
  function onCompleted(id: string, events: readonly WebhookEvent[]): void {
    const waiting = coalescing.get(id)
    clearTimeout(waiting)
    coalescing.delete(id)
    if (events.includes('completed')) setAlarm(Date.now())
    else if (waiting) sendOnce(id)
  }

  /** What happens within the interval is reported by one request at its end. */
  function coalesce(id: string): void {
    if (coalescing.has(id) || isStopped) return
    const send = () => {
      coalescing.delete(id)
      sendOnce(id)
    }
    coalescing.set(id, setTimeout(send, coalesceMs).unref())
  }

  function sendOnce(id: string): void {
    track(`once ${randomUUID()}`, postOnce(id))
  }

  async function postOnce(id: string): Promise<void> {
    try {
      const prediction = await find(id)
      if (prediction) await post(prediction, `msg_${randomUUID()}`)
    } catch (error) {
      options.onMissed?.(id, error)
    }
  }

  /** Sends what is due as far as there is a slot, and sets the alarm for what is due next. */
  async function sendDue(): Promise<void> {
    if (isLooking) return
    isLooking = true
    try {
      const pending = await deliveries.listPending(maxInFlight + 1)
      for (const delivery of pending.filter(({ id }) => !inFlight.has(id))) {
        if (inFlight.size >= maxInFlight) return
        if (delivery.dueAt!.getTime() > Date.now()) return setAlarm(delivery.dueAt!.getTime())
        track(delivery.id, deliver(delivery))
      }
    } finally {
      isLooking = false
    }
  }

  function look(): Promise<void> {
    return sendDue().catch((error: unknown) => {
      if (isStopped) return
      options.onFault(error)
      setAlarm(Date.now() + retryMs)
    })
  }

  async function deliver(delivery: Delivery): Promise<void> {
    const attempt = await attemptOf(delivery)
    // Without its record the delivery would be due again at once, and be sent again.
    const record = () => deliveries.record(delivery.id, attempt)
    await retryWrite(record, stopping.signal, options.onFault)
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
    const done = work.catch(options.onFault).finally(() => {
      inFlight.delete(key)
      if (!isStopped) setAlarm(Date.now())
    })
    inFlight.set(key, done)
  }

  function setAlarm(atMs: number): void {
    clearTimeout(alarm)
    if (isStopped) return
    const delayMs = Math.min(Math.max(0, atMs - Date.now()), longestDelayMs)
    alarm = setTimeout(look, delayMs).unref()
  }

  deliveries.removeSettled(new Date(Date.now() - keptMs)).catch(options.onFault)
  setAlarm(Date.now())

  return {
    onEvent,
    async redeliver(prediction) {
      await deliveries.addCompleted(prediction)
      setAlarm(Date.now())
    },
    listDeliveries: deliveries.listOfPrediction,
    async stop() {
      if (!isStopped) await look()
      isStopped = true
      stopping.abort()
      clearTimeout(alarm)
      for (const timer of coalescing.values()) clearTimeout(timer)
      await Promise.allSettled(inFlight.values())
    },
  }
}

/** Posts the prediction as it is then; throws what the receiver or the way to it refuses. */
function createPoster({ client, describe, token, secret }: WebhookOptions) {
  const signer = new Webhook(secret)
  return async (prediction: Prediction, id: string): Promise<void> => {
    // Signed are the very bytes that are sent, and the time of this attempt.
    const body = await describe(prediction)
    const now = new Date()
    const reply = await client.post(prediction.webhook!.url, body, {
      bearer: token,
      headers: {
        ...prediction.webhook!.trace,
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
}

function afterFailure(attempts: number, error: unknown): Attempt {
  const reason = error instanceof Error ? error.message : String(error)
  // A URL that may not be fetched will not become one that may.
  const isHopeless = error instanceof FluxdError && error.code === 'invalid_input'
  if (isHopeless || attempts >= maxAttempts)
    return { kind: 'given up', at: new Date(), error: reason }
  return { kind: 'postponed', until: new Date(Date.now() + retryDelayMs(attempts)), error: reason }
}
