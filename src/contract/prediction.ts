/**
 * A prediction in our own names: what every surface writes on the wire in its own shape, and what
 * the store keeps. `predictions/` moves it from state to state.
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
  /** Where who asked for it reaches this server: its receiver may, too. */
  readonly serverUrl?: string | undefined
  /** `traceparent` and `tracestate` of the request, which each delivery repeats. */
  readonly trace?: Readonly<Record<string, string>> | undefined
}

export type Surface = 'cog' | 'replicate'

/** A picture that was made. `index` counts before unsafe pictures are left out, so there may be gaps. */
export type OutputFile = {
  readonly index: number
  /** `out-0.webp`. */
  readonly name: string
  readonly mimeType: string
  /** Bytes. */
  readonly size: number
  readonly fileId: string
}

/** A data URI of an input that is kept as a file. */
export type InputFile = {
  readonly fileId: string
  /** What stands before its base64, with the comma. */
  readonly head: string
}

export type PredictionMetrics = {
  /** Seconds of work, without the time spent waiting. */
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
  /** The fields of `input` that were long data URIs; there is but their beginning in `input`. */
  readonly inputFiles?: Readonly<Record<string, InputFile>> | undefined
  readonly status: PredictionStatus
  readonly createdAt: Date
  readonly startedAt?: Date | undefined
  readonly completedAt?: Date | undefined
  /** Canceled when it is not done by then. */
  readonly deadline?: Date | undefined
  /** Cog gives the client's `created_at` back as it came. */
  readonly sentCreatedAt?: string | undefined
  /** Lines, each ended by a newline. */
  readonly logs: string
  /** Absent until there is a picture. */
  readonly output?: readonly OutputFile[] | undefined
  readonly error?: string | undefined
  readonly metrics: PredictionMetrics
  readonly webhook?: Webhook | undefined
  /** Input, output and logs are gone because their time was over. */
  readonly dataRemoved: boolean
  /** The trace that its request belongs to (W3C). */
  readonly traceparent?: string | undefined
  /** Unguessable; names the stream of events. */
  readonly streamToken: string
}
