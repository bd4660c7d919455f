/**
 * The body of `POST /predictions` and the prediction it answers with, as the Python Cog server
 * writes them (replicate-contract §2.3, §2.4): every key is always there.
 */
import { z } from 'zod'
import { FluxInput, Output } from './input.js'

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

/** A field of Cog that changes what happens: refused until fluxd can do what it asks for. */
const notYet = (field: string) => z.never({ error: `${field} is not supported yet` }).optional()

/**
 * `context` (for the predictor) and `webhook_events_filter` (without a webhook) change nothing here.
 * A missing body or input is an empty one, and null is absent, so both fail on the prompt alone.
 */
export const PredictionRequest = z
  .preprocess(
    withEmptyInput,
    z.object({
      input: FluxInput,
      id: z.string().optional().meta({ title: 'Id' }),
      created_at: z.string().optional().meta({ title: 'Created At', format: 'date-time' }),
      webhook: notYet('webhook'),
      output_file_prefix: notYet('output_file_prefix'),
    }),
  )
  .meta({ title: 'PredictionRequest' })
export type PredictionRequest = z.output<typeof PredictionRequest>

export const PredictionResponse = z
  .object({
    input: z.record(z.string(), z.unknown()).meta({ title: 'Input' }),
    output: Output.nullable(),
    id: z.string().nullable().meta({ title: 'Id' }),
    version: z.string().nullable().meta({ title: 'Version' }),
    created_at: z.string().nullable().meta({ title: 'Created At', format: 'date-time' }),
    started_at: z.string().nullable().meta({ title: 'Started At', format: 'date-time' }),
    completed_at: z.string().nullable().meta({ title: 'Completed At', format: 'date-time' }),
    logs: z.string().meta({ title: 'Logs' }),
    error: z.string().nullable().meta({ title: 'Error' }),
    status: PredictionStatus,
    metrics: z.object({ predict_time: z.number() }).meta({ title: 'Metrics' }),
  })
  .meta({ title: 'PredictionResponse' })
export type PredictionResponse = z.output<typeof PredictionResponse>

/** A prediction in our own names; `predictions/` moves it from state to state. */
export type Prediction = {
  readonly id: string | undefined
  /** As it was sent, without our defaults. */
  readonly input: Readonly<Record<string, unknown>>
  readonly createdAt: string | undefined
  readonly status: PredictionStatus
  readonly startedAt: Date | undefined
  readonly completedAt: Date | undefined
  /** Lines, each ended by a newline. */
  readonly logs: string
  /** URIs of the pictures. */
  readonly output: readonly string[] | undefined
  readonly error: string | undefined
}

export const toPredictionResponse = (prediction: Prediction): PredictionResponse => ({
  input: prediction.input,
  output: prediction.output ? [...prediction.output] : null,
  id: prediction.id ?? null,
  version: null,
  created_at: prediction.createdAt ?? null,
  started_at: prediction.startedAt?.toISOString() ?? null,
  completed_at: prediction.completedAt?.toISOString() ?? null,
  logs: prediction.logs,
  error: prediction.error ?? null,
  status: prediction.status,
  metrics: { predict_time: predictTime(prediction) },
})

/** Seconds of work, without the time spent waiting. */
const predictTime = ({ startedAt, completedAt }: Prediction) =>
  startedAt && completedAt ? (completedAt.getTime() - startedAt.getTime()) / 1000 : 0

/** The input as it was sent, without our defaults: what a prediction echoes. */
export const sentInput = (body: unknown): Readonly<Record<string, unknown>> =>
  isRecord(body) && isRecord(body['input']) ? body['input'] : {}

function withEmptyInput(body: unknown): unknown {
  if (body === undefined || body === null) return { input: {} }
  if (!isRecord(body)) return body
  const { input = {}, ...rest } = withoutNulls(body)
  return { ...rest, input: isRecord(input) ? withoutNulls(input) : input }
}

const withoutNulls = (record: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== null))

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
