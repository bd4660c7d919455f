/** The log, metrics and traces of predictions. */
import type { Logger } from 'pino'
import type { Prediction, WebhookEvent } from '../contract/prediction.js'
import type { Metrics } from './metrics.js'
import type { Tracing } from './tracing.js'

export type PredictionTelemetry = {
  readonly onEvent: (prediction: Prediction, event: WebhookEvent) => void
}

export type PredictionTelemetryOptions = {
  readonly logger: Pick<Logger, 'child'>
  readonly metrics: Metrics
  readonly tracing?: Tracing | undefined
}

export function createPredictionTelemetry({
  logger,
  metrics,
  tracing,
}: PredictionTelemetryOptions): PredictionTelemetry {
  function onEvent(prediction: Prediction, event: WebhookEvent): void {
    if (event === 'start') logStart(prediction)
    if (event === 'completed') end(prediction)
  }

  /** A prompt is in the log at debug level only. */
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
        ...measured,
        model,
        keyId,
        outcome: status,
        images: prediction.output?.length ?? 0,
      })
    tracing?.predictionEnded(prediction, prediction.traceparent)
  }

  return { onEvent }
}
