/**
 * What goes over the wire about a prediction on `/v1`: the body that creates one and the object that
 * describes one. Every key is always there, null where there is nothing to say (C-3.3, C-3.4).
 */
import { z } from 'zod'
import { Output } from './input.js'
import {
  type Prediction,
  type PredictionMetrics,
  PredictionStatus,
  webhookEvents,
} from './prediction.js'
import { isRecord, withoutNulls } from './records.js'

/** Cog bounds the length too: the URL is kept with the prediction. */
const webhookUrl = z
  .url({ protocol: /^https?$/, error: 'Expected an http or https URL' })
  .max(65_536)

/**
 * The input is checked later, when it is known whose it is. `stream` and `webhook_completed` are what
 * old clients send; neither changes what happens here.
 */
const createFields = {
  input: z.record(z.string(), z.unknown()),
  webhook: webhookUrl.optional(),
  webhook_events_filter: z.array(z.enum(webhookEvents)).optional(),
  stream: z.boolean().optional(),
  webhook_completed: z.string().optional(),
}

/** The body where the path says which model: `/models/{owner}/{name}/predictions` and the like. */
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
 * The prediction as `/v1` tells it; `output` are the URIs of its pictures, and `baseUrl` is where this
 * server is reached, without a slash at its end.
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

/** Clients write null for what they leave out; no body is an empty one, and fastify calls it null. */
function withoutNullFields(body: unknown): unknown {
  if (body === undefined || body === null) return {}
  return isRecord(body) ? withoutNulls(body) : body
}
