/**
 * The bodies of the Cog surface, as the Python Cog server writes them: every key is always there
 * (C-2.3, C-2.4). Two things are from the newer runtime, as an asynchronous client
 * needs them: a prediction always has an id, and a hidden input stays hidden.
 */
import { z } from 'zod'
import { FluxInput } from './input.js'
import { isRecord, withoutNulls } from './jsonSchema.js'
import { type Prediction, PredictionStatus, webhookEvents } from './prediction.js'

/** An id that a client chooses must fit into a URL's path and into a header unescaped. */
export const CogPredictionId = z
  .string()
  .regex(/^[\w.~:@-]{1,200}$/, 'Expected up to 200 letters, digits and -_.~:@')
  .meta({ title: 'Id' })

const httpUrl = z
  .string()
  .max(65_536)
  .regex(/^https?:\/\//i, 'Expected an http or https URL')

/** A component of Cog's document. */
export const CogWebhookEvent = z
  .enum(webhookEvents)
  .meta({ title: 'WebhookEvent', description: 'An enumeration.' })

/**
 * `context` (for the predictor) has no effect. A missing body or input counts as an empty one, and
 * null as absent, so that both fail on the prompt alone.
 */
export const CogPredictionRequest = z
  .preprocess(
    withEmptyInput,
    z.object({
      input: FluxInput,
      id: CogPredictionId.optional(),
      created_at: z.string().max(64).optional().meta({ title: 'Created At', format: 'date-time' }),
      webhook: httpUrl.optional().meta({ title: 'Webhook', format: 'uri' }),
      webhook_events_filter: z
        .array(CogWebhookEvent)
        .optional()
        .meta({ title: 'Webhook Events Filter' }),
      output_file_prefix: httpUrl.optional().meta({ title: 'Output File Prefix' }),
    }),
  )
  .meta({ title: 'PredictionRequest' })
export type CogPredictionRequest = z.output<typeof CogPredictionRequest>

export const PredictionResponse = z
  .object({
    input: z.record(z.string(), z.unknown()).meta({ title: 'Input' }),
    // Not a link to `Output`: OpenAPI 3.0 ignores `nullable` without a type of its own.
    output: z
      .array(z.string().meta({ format: 'uri' }))
      .nullable()
      .meta({ title: 'Output' }),
    id: z.string().nullable().meta({ title: 'Id' }),
    version: z.string().nullable().meta({ title: 'Version' }),
    created_at: z.string().nullable().meta({ title: 'Created At', format: 'date-time' }),
    started_at: z.string().nullable().meta({ title: 'Started At', format: 'date-time' }),
    completed_at: z.string().nullable().meta({ title: 'Completed At', format: 'date-time' }),
    logs: z.string().meta({ title: 'Logs' }),
    error: z.string().nullable().meta({ title: 'Error' }),
    status: PredictionStatus,
    metrics: z.record(z.string(), z.number()).meta({ title: 'Metrics' }),
  })
  .meta({ title: 'PredictionResponse' })
export type PredictionResponse = z.output<typeof PredictionResponse>

/** The prediction in Cog's shape; `output` holds the URIs of its images. */
export const toPredictionResponse = (
  prediction: Prediction,
  output: readonly string[] | undefined,
): PredictionResponse => ({
  input: prediction.input,
  output: output ? [...output] : null,
  id: prediction.id,
  version: null,
  created_at: prediction.sentCreatedAt ?? null,
  started_at: prediction.startedAt?.toISOString() ?? null,
  completed_at: prediction.completedAt?.toISOString() ?? null,
  logs: prediction.logs,
  error: prediction.error ?? null,
  status: prediction.status,
  metrics: toCogMetrics(prediction),
})

/**
 * `predict_time` is Cog's; the platform adds the others. None is known before the prediction ends.
 */
export const toCogMetrics = ({ metrics }: Prediction): Record<string, number> => ({
  ...(metrics.predictTime !== undefined && { predict_time: metrics.predictTime }),
  ...(metrics.totalTime !== undefined && { total_time: metrics.totalTime }),
  ...(metrics.imageCount !== undefined && { image_count: metrics.imageCount }),
  ...(metrics.loraSwitchMs !== undefined && { lora_switch_ms: metrics.loraSwitchMs }),
})

/** The input as it was sent, without defaults: the echo of a prediction. */
export const sentInput = (body: unknown): Readonly<Record<string, unknown>> =>
  isRecord(body) && isRecord(body['input']) ? body['input'] : {}

function withEmptyInput(body: unknown): unknown {
  if (body === undefined || body === null) return { input: {} }
  if (!isRecord(body)) return body
  const { input = {}, ...rest } = withoutNulls(body)
  return { ...rest, input: isRecord(input) ? withoutNulls(input) : input }
}
