/** A webhook delivery as fluxd's own routes tell it. */
import type { WebhookEvent } from './prediction.js'

export type WebhookDelivery = {
  /** The receiver's `webhook-id`. */
  readonly id: string
  readonly event: WebhookEvent
  readonly status: 'pending' | 'delivered' | 'failed'
  readonly attempts: number
  readonly created_at: string
  readonly next_attempt_at: string | null
  readonly completed_at: string | null
  /** Of the last attempt. */
  readonly error: string | null
}
