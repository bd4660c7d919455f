/**
 * The port of webhook deliveries that must arrive: written with the state that they report, and
 * kept for a while after they have arrived or were given up. What is sent is the prediction as it
 * is then.
 */
import type { Prediction, WebhookEvent } from '../contract/prediction.js'

export type Delivery = {
  /** The same over all attempts: the receiver's `webhook-id`. */
  readonly id: string
  readonly predictionId: string
  readonly event: WebhookEvent
  /** How often it was sent. */
  readonly attempts: number
  readonly createdAt: Date
  /** Of the next attempt; absent when there will be none. */
  readonly dueAt?: Date | undefined
  /** When it had arrived (there is no error then) or was given up. */
  readonly settledAt?: Date | undefined
  /** Of the last attempt. */
  readonly error?: string | undefined
}

/** How an attempt went: it arrived, it is tried again, or it is given up. */
export type Attempt =
  | { readonly kind: 'arrived'; readonly at: Date }
  | { readonly kind: 'postponed'; readonly until: Date; readonly error: string }
  | { readonly kind: 'given up'; readonly at: Date; readonly error: string }

export type DeliveryStore = {
  /** A new delivery of the prediction's `completed`, due at once. */
  readonly addCompleted: (prediction: Prediction) => Promise<void>
  /** What is still to be sent, the one that is due first coming first. */
  readonly listPending: (limit: number) => Promise<Delivery[]>
  readonly record: (id: string, attempt: Attempt) => Promise<void>
  /** Oldest first. */
  readonly listOfPrediction: (predictionId: string) => Promise<Delivery[]>
  /** Forgets what was settled before `time`. */
  readonly removeSettled: (time: Date) => Promise<void>
}
