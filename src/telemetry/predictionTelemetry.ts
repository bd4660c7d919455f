/** Everybody who is told of predictions, apart from their clients: the log, metrics and traces. */
import type { Logger } from 'pino'
import type { Prediction, WebhookEvent } from '../contract/prediction.js'
import type { Metrics } from './metrics.js'
import type { Tracing } from './tracing.js'

export type Report = {
  readonly onEvent: (prediction: Prediction, event: WebhookEvent) => void
  /** The trace that the request which made a prediction belongs to. */
  readonly rememberTrace: (predictionId: string, traceparent: string) => void
}

export type ReportOptions = {
  readonly logger: Pick<Logger, 'child'>
  readonly metrics: Metrics
  readonly tracing?: Tracing | undefined
}

// Predictions that wait; a trace that is forgotten is only not continued.
const rememberedTraces = 10_000

export function createReport({ logger, metrics, tracing }: ReportOptions): Report {
  const traces = new Map<string, string>()

  function rememberTrace(predictionId: string, traceparent: string): void {
    if (!tracing) return
    traces.set(predictionId, traceparent)
    const [oldest] = traces.keys()
    if (traces.size > rememberedTraces && oldest !== undefined) traces.delete(oldest)
  }

  function onEvent(prediction: Prediction, event: WebhookEvent): void {
    if (event === 'start') logStart(prediction)
    if (event === 'completed') end(prediction)
  }

  /** What a user wrote is nothing for the log of a server, unless it is looked into closely. */
  function logStart({ id, model, input, metrics: { queueTime } }: Prediction): void {
    const log = logger.child({ prediction: id })
    log.info({ model, queueSeconds: queueTime }, 'prediction started')
    log.debug({ prompt: input['prompt'] }, 'prompt')
  }

  function end(prediction: Prediction): void {
    const { id, model, status, keyId, error, metrics: measured } = prediction
    const { predictTime, totalTime, loraSwitchMs } = measured
    logger
      .child({ prediction: id })
      .info({ model, status, predictTime, totalTime, loraSwitchMs, error }, 'prediction ended')
    if (status === 'succeeded' || status === 'failed' || status === 'canceled')
      metrics.predictionEnded({
        ...{ model, keyId, outcome: status, images: prediction.output?.length ?? 0 },
        ...measured,
      })
    tracing?.predictionEnded(prediction, traces.get(id))
    traces.delete(id)
  }

  return { onEvent, rememberTrace }
}
