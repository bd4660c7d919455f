/** What is told of predictions to others than their clients: webhooks, metrics, traces and the log. */
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import { readBuild } from '../build.js'
import type { Config } from '../config/config.js'
import { toPredictionResponse } from '../contract/cog.js'
import type { Prediction } from '../contract/prediction.js'
import { createSecretStore, toWebhookKey } from '../store/sqlite/secrets.js'
import { createDeliveryStore } from '../store/sqlite/webhookDeliveries.js'
import { observeEngine, observeLibrary } from '../telemetry/instrument.js'
import { createMetrics, type Metrics } from '../telemetry/metrics.js'
import { createReport, type Report } from '../telemetry/predictionTelemetry.js'
import { createTracing } from '../telemetry/tracing.js'
import type { Engine } from '../worker/engine/client.js'
import type { Services } from './context.js'
import type { CogOutputs } from './http/cog/outputs.js'
import { encodeWhole } from './http/inputEcho.js'
import { withUrls } from './http/replicate/present.js'
import type { Predictions } from './predictions/service.js'
import { createWebhooks, type Webhooks } from './predictions/webhooks.js'

export type ReportingOptions = {
  readonly config: Pick<Config, 'otlpUrl' | 'webhookToken'>
  readonly services: Services
  readonly logger: Pick<Logger, 'child'>
  readonly outputs: CogOutputs
  readonly find: (predictionId: string) => Promise<Prediction | undefined>
  /** Where the receiver of a prediction's webhooks reaches this server, known once it listens. */
  readonly serverUrl: (prediction: Prediction) => string
}

export type Reporting = {
  readonly webhooks: Webhooks
  readonly metrics: Metrics
  readonly rememberTrace: Report['rememberTrace']
  /** Told in the transaction of the state that it reports. */
  readonly onEvent: Report['onEvent']
  readonly observeEngine: (engine: Engine) => Engine
  readonly observeLibrary: (library: Services['library']) => Services['library']
  readonly watch: (predictions: Predictions) => void
  readonly stop: () => Promise<void>
}

export function createReporting(options: ReportingOptions): Reporting {
  const { config, services, logger } = options
  const build = readBuild()
  const metrics = createMetrics(build)
  const tracing = config.otlpUrl ? createTracing(config.otlpUrl, build.version) : undefined
  const report = createReport({ logger, metrics, tracing })
  const webhooks = createWebhooks({
    client: services.client,
    deliveries: createDeliveryStore(services.database),
    find: options.find,
    describe: (prediction) => describe(prediction, options),
    secret: toWebhookKey(createSecretStore(services.database).read('webhooks')),
    token: config.webhookToken?.reveal(),
    onAttempt: (_delivery, { kind }) => metrics.webhookAttempted(kind),
    drawId: () => `msg_${randomUUID()}`,
  })
  return {
    webhooks,
    metrics,
    rememberTrace: report.rememberTrace,
    onEvent(prediction, event) {
      webhooks.onEvent(prediction, event)
      report.onEvent(prediction, event)
    },
    observeEngine: (engine) => observeEngine(engine, metrics),
    observeLibrary: (library) => observeLibrary(library, metrics),
    watch: (predictions) =>
      metrics.watch({
        running: () => (predictions.runningId() === undefined ? 0 : 1),
        waiting: () => predictions.waitingCount(),
      }),
    async stop() {
      await webhooks.stop()
      await tracing?.stop()
    },
  }
}

/** A receiver gets the body that the prediction's own surface answers with. */
async function describe(
  prediction: Prediction,
  { services, outputs, serverUrl }: ReportingOptions,
) {
  const body =
    prediction.surface === 'replicate'
      ? withUrls(prediction, serverUrl(prediction))
      : toPredictionResponse(prediction, await outputs.deliver(prediction))
  return String(await encodeWhole(body, prediction, services.files))
}
