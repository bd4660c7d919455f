/**
 * What is sent of predictions to others than their clients: webhooks, metrics, traces and the log.
 */
import type { Logger } from 'pino'
import type { Config } from '../config/config.js'
import { toPredictionResponse } from '../contract/cog.js'
import type { Prediction } from '../contract/prediction.js'
import type { EventHook } from '../predictions/feed.js'
import type { Attempt, Delivery } from '../store/deliveryStore.js'
import type { Metrics } from '../telemetry/metrics.js'
import { createPredictionTelemetry } from '../telemetry/predictionTelemetry.js'
import { createTracing } from '../telemetry/tracing.js'
import type { Services } from './context.js'
import type { CogOutputs } from './http/cog/outputs.js'
import { encodeWhole } from './http/inputEcho.js'
import { withUrls } from './http/replicate/present.js'
import { createWebhooks, type Webhooks } from './predictions/webhooks.js'

export type ObserverOptions = {
  readonly config: Pick<Config, 'otlpUrl' | 'webhookToken'>
  readonly services: Services
  readonly logger: Pick<Logger, 'child' | 'warn' | 'error'>
  readonly metrics: Metrics
  readonly outputs: CogOutputs
  readonly version: string
  readonly find: (predictionId: string) => Promise<Prediction | undefined>
  /** Where the receiver of a prediction's webhooks reaches this server, known once it listens. */
  readonly serverUrl: (prediction: Prediction) => string
}

export type Observers = {
  readonly webhooks: Webhooks
  readonly onEvent: EventHook
  readonly stop: () => Promise<void>
}

export function createObservers(options: ObserverOptions): Observers {
  const { config, services, logger, metrics, version } = options
  const tracing = config.otlpUrl ? createTracing(config.otlpUrl, version) : undefined
  const report = createPredictionTelemetry({ logger, metrics, tracing })
  const webhooks = createWebhooks({
    client: services.client,
    deliveries: services.store.deliveries,
    find: options.find,
    describe: (prediction) => describe(prediction, options),
    secret: services.webhookKey,
    token: config.webhookToken?.reveal(),
    onAttempt(delivery, attempt) {
      metrics.webhookAttempted(attempt.kind)
      logAttempt(logger, delivery, attempt)
    },
    onMissed: (prediction, error) =>
      logger.warn({ prediction, err: error }, 'webhook not delivered; it is not sent again'),
    onFault: (error) => logger.error({ err: error }, 'webhook delivery failed'),
  })
  return {
    webhooks,
    onEvent(prediction, event) {
      webhooks.onEvent(prediction, event)
      report.onEvent(prediction, event)
    },
    async stop() {
      await webhooks.stop()
      await tracing?.stop()
    },
  }
}

function logAttempt(
  logger: ObserverOptions['logger'],
  { id, predictionId }: Delivery,
  attempt: Attempt,
): void {
  if (attempt.kind !== 'given up') return
  logger.warn({ prediction: predictionId, webhookId: id, error: attempt.error }, 'webhook given up')
}

/** A receiver gets the body that the prediction's own surface answers with. */
async function describe(
  prediction: Prediction,
  { services, outputs, serverUrl }: ObserverOptions,
): Promise<string> {
  const body =
    prediction.surface === 'replicate'
      ? withUrls(prediction, serverUrl(prediction))
      : toPredictionResponse(
          prediction,
          await outputs.deliver(prediction, prediction.webhook?.trace),
        )
  return String(await encodeWhole(body, prediction, services.files))
}
