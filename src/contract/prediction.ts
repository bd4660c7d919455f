/**
 * A prediction in fluxd's own names: the store keeps it, and each surface converts it to its own
 * wire shape. Its transitions are in predictions/.
 */
import { z } from 'zod'

export const predictionStatuses = [
  'starting',
  'processing',
  'succeeded',
  'canceled',
  'failed',
] as const
export const PredictionStatus = z
  .enum(predictionStatuses)
  .meta({ title: 'Status', description: 'An enumeration.' })
export type PredictionStatus = z.output<typeof PredictionStatus>

export const webhookEvents = ['start', 'output', 'logs', 'completed'] as const
export type WebhookEvent = (typeof webhookEvents)[number]

export type Webhook = {
  readonly url: string
  readonly events: readonly WebhookEvent[]
  /**
   * The URL at which the client reached this server; its receiver can reach the server there, too.
   */
  readonly serverUrl?: string | undefined
  /** `traceparent` and `tracestate` of the request, which each delivery repeats. */
  readonly trace?: Readonly<Record<string, string>> | undefined
}

export type Surface = 'cog' | 'replicate'

/** A generated image. `index` counts before unsafe images are removed, so there may be gaps. */
export type OutputFile = {
  readonly index: number
  /** `out-0.webp`. */
  readonly name: string
  readonly mimeType: string
  /** Bytes. */
  readonly size: number
  readonly fileId: string
}

/** A data URI of an input that is stored as a file. */
export type InputFile = {
  readonly fileId: string
  /** The text before its base64, including the comma. */
  readonly head: string
}

export type PredictionMetrics = {
  /** Seconds of work, without the time in the queue. */
  readonly predictTime?: number | undefined
  /** Seconds from admission to the end. */
  readonly totalTime?: number | undefined
  /** Seconds from admission to the start. */
  readonly queueTime?: number | undefined
  readonly imageCount?: number | undefined
  readonly loraSwitchMs?: number | undefined
}

export type Prediction = {
  /** 26 characters [a-z0-9] unless a Cog client chose its own. */
  readonly id: string
  readonly surface: Surface
  /** `owner/name`. */
  readonly model: string
  /** 64 hexadecimal digits. */
  readonly version: string
  readonly deployment?: string | undefined
  /** The API key that created it; absent where no keys are configured. */
  readonly keyId?: string | undefined
  /** As it was sent, without our defaults and without secrets. */
  readonly input: Readonly<Record<string, unknown>>
  /** The fields of `input` that were long data URIs; `input` holds only their beginning. */
  readonly inputFiles?: Readonly<Record<string, InputFile>> | undefined
  readonly status: PredictionStatus
  readonly createdAt: Date
  readonly startedAt?: Date | undefined
  readonly completedAt?: Date | undefined
  /** The prediction is canceled if it has not ended by then. */
  readonly deadline?: Date | undefined
  /** Cog's replies contain the client's `created_at` as it was sent. */
  readonly sentCreatedAt?: string | undefined
  /** Lines, each ended by a newline. */
  readonly logs: string
  /** Undefined until there is an image. */
  readonly output?: readonly OutputFile[] | undefined
  readonly error?: string | undefined
  readonly metrics: PredictionMetrics
  readonly webhook?: Webhook | undefined
  /** Whether input, output and logs were removed because their retention ended. */
  readonly dataRemoved: boolean
  /** The trace that its request belongs to (W3C). */
  readonly traceparent?: string | undefined
  /** Unguessable; part of the URL of the event stream. */
  readonly streamToken: string
}
