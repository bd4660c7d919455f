/**
 * The objects of `/v1`: the bodies that create a prediction and the object that describes one
 * (C-3.3, C-3.4), pages of lists, and the small objects about the server itself
 * (C-3.12). Every key of a reply is always there, null where it has no value.
 */
import { z } from 'zod'
import { Output } from './input.js'
import { isRecord, withoutNulls } from './jsonSchema.js'
import {
  type Prediction,
  type PredictionMetrics,
  PredictionStatus,
  type WebhookEvent,
  webhookEvents,
} from './prediction.js'

/** Bounded as in Cog: the URL is stored with the prediction. */
const webhookUrl = z
  .url({ protocol: /^https?$/, error: 'Expected an http or https URL' })
  .max(65_536)

/**
 * The input is validated against the model that it is for. `stream` and `webhook_completed` are
 * sent by old clients and have no effect.
 */
const createFields = {
  input: z.record(z.string(), z.unknown()),
  webhook: webhookUrl.optional(),
  webhook_events_filter: z.array(z.enum(webhookEvents)).optional(),
  stream: z.boolean().optional(),
  webhook_completed: z.string().optional(),
}

/** The body of routes whose path names the model, such as `/models/{owner}/{name}/predictions`. */
export const CreateNamedPrediction = z
  .preprocess(withoutNullFields, z.strictObject(createFields))
  .meta({ title: 'CreateNamedPrediction' })
export type CreateNamedPrediction = z.output<typeof CreateNamedPrediction>

/** `version` is `owner/name`, `owner/name:version` or a version alone. */
export const CreatePrediction = z
  .preprocess(withoutNullFields, z.strictObject({ version: z.string(), ...createFields }))
  .meta({ title: 'CreatePrediction' })

export const ReplicatePrediction = z
  .object({
    id: z.string(),
    model: z.string(),
    version: z.string(),
    input: z.record(z.string(), z.unknown()),
    logs: z.string(),
    output: Output.nullable(),
    data_removed: z.boolean(),
    error: z.string().nullable(),
    source: z.enum(['api', 'web']),
    status: PredictionStatus,
    created_at: z.string().meta({ format: 'date-time' }),
    started_at: z.string().nullable().meta({ format: 'date-time' }),
    completed_at: z.string().nullable().meta({ format: 'date-time' }),
    deadline: z.string().nullable().meta({ format: 'date-time' }),
    deployment: z.string().nullable(),
    metrics: z.record(z.string(), z.number()),
    webhook: z.string().nullable(),
    webhook_events_filter: z.array(z.enum(webhookEvents)).nullable(),
    urls: z.object({ get: z.string(), cancel: z.string(), stream: z.string(), web: z.string() }),
  })
  .meta({ title: 'Prediction' })
export type ReplicatePrediction = z.output<typeof ReplicatePrediction>

/**
 * The prediction on `/v1`; `output` holds the URIs of its images, and `baseUrl` is this server's
 * public URL, without a slash at its end.
 */
export const toReplicatePrediction = (
  prediction: Prediction,
  output: readonly string[] | undefined,
  baseUrl: string,
): ReplicatePrediction => ({
  id: prediction.id,
  model: prediction.model,
  version: prediction.version,
  input: prediction.input,
  logs: prediction.logs,
  output: output ? [...output] : null,
  data_removed: prediction.dataRemoved,
  error: prediction.error ?? null,
  source: 'api',
  status: prediction.status,
  created_at: prediction.createdAt.toISOString(),
  started_at: prediction.startedAt?.toISOString() ?? null,
  completed_at: prediction.completedAt?.toISOString() ?? null,
  deadline: prediction.deadline?.toISOString() ?? null,
  deployment: prediction.deployment ?? null,
  metrics: toMetrics(prediction.metrics),
  webhook: prediction.webhook?.url ?? null,
  webhook_events_filter: prediction.webhook ? [...prediction.webhook.events] : null,
  urls: {
    get: `${baseUrl}/v1/predictions/${prediction.id}`,
    cancel: `${baseUrl}/v1/predictions/${prediction.id}/cancel`,
    stream: `${baseUrl}/v1/files/stream-${prediction.streamToken}`,
    web: `${baseUrl}/p/${prediction.id}`,
  },
})

const toMetrics = (metrics: PredictionMetrics): Record<string, number> =>
  Object.fromEntries(
    Object.entries({
      predict_time: metrics.predictTime,
      total_time: metrics.totalTime,
      queue_time: metrics.queueTime,
      image_count: metrics.imageCount,
      lora_switch_ms: metrics.loraSwitchMs,
    }).filter((entry): entry is [string, number] => entry[1] !== undefined),
  )

/**
 * Drops fields that are null: clients write null for what they leave out. Fastify passes an empty
 * body as null.
 */
function withoutNullFields(body: unknown): unknown {
  if (body === undefined || body === null) return {}
  return isRecord(body) ? withoutNulls(body) : body
}

/**
 * One page of a list on `/v1`. `next` and `previous` are absolute: clients request them as they
 * are.
 */
export type Page<T> = {
  readonly next: string | null
  readonly previous: string | null
  readonly results: readonly T[]
}

/** The only page of a short list. */
export const wholePage = <T>(results: readonly T[]): Page<T> => ({
  next: null,
  previous: null,
  results,
})

/** A webhook delivery on fluxd's own routes. */
export type WebhookDelivery = {
  /** The `webhook-id` that the receiver gets. */
  readonly id: string
  readonly event: WebhookEvent
  readonly status: 'pending' | 'delivered' | 'failed'
  readonly attempts: number
  readonly created_at: string
  readonly next_attempt_at: string | null
  readonly completed_at: string | null
  /** The error of the last attempt. */
  readonly error: string | null
}

export const Account = z.object({
  type: z.enum(['user', 'organization']),
  username: z.string(),
  name: z.string(),
  github_url: z.string().nullable(),
  avatar_url: z.string().nullable(),
})
export type Account = z.output<typeof Account>

export const Hardware = z.object({ sku: z.string(), name: z.string() })
export type Hardware = z.output<typeof Hardware>

export const WebhookSecret = z.object({ key: z.string() })
export type WebhookSecret = z.output<typeof WebhookSecret>
