/** What the app's surfaces stand on: its predictions, their observers, and the default model. */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { readBuild } from '../build.js'
import type { Config } from '../config/config.js'
import { createGuardedClient } from '../net/guardedClient.js'
import type { WorkerPort } from '../predictions/workerPort.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { Services } from './context.js'
import { type CogOutputs, createCogOutputs } from './http/cog/outputs.js'
import { touchReadyFile } from './http/probes.js'
import { createObservers, type Observers } from './observers.js'
import { startRetention } from './predictions/retention.js'
import { createPredictions, type Predictions } from './predictions/service.js'
import { noSafetyChecker, type Setup, startSetup } from './predictions/warmup.js'

export type PartSettings = Pick<
  Config,
  | 'noise'
  | 'goFastLoraMultiplier'
  | 'safetyModel'
  | 'maxQueue'
  | 'retentionSeconds'
  | 'drainSeconds'
  | 'publicUrl'
  | 'otlpUrl'
  | 'readyFile'
  | 'webhookToken'
  | 'cog'
>

export type PartOptions = {
  readonly config: PartSettings
  readonly worker: WorkerPort
  readonly services: Services
  readonly metrics: Metrics
}

export type Parts = {
  readonly predictions: Predictions
  readonly outputs: CogOutputs
  readonly observers: Observers
  readonly setup: () => Setup
}

/** Starts them; they end with `app`. The default model begins to load. */
export function startParts(app: FastifyInstance, options: PartOptions): Parts {
  const { config, worker, services, metrics } = options
  const safetyChecker = config.safetyModel !== undefined
  const outputs = openCogOutputs(app, options)
  const observers = createObservers({
    config,
    services,
    logger: app.log as Logger,
    metrics,
    outputs,
    version: readBuild().version,
    find: (id) => predictions.get(id),
    serverUrl: ({ webhook }) => config.publicUrl ?? webhook?.serverUrl ?? listeningUrl(app),
  })
  const predictions = startPredictions(app, options, observers)
  metrics.watch(predictions.counts, worker.executors)
  const setup = startSetup(worker, {
    safetyChecker,
    onReady: () => announceReady(app, config.readyFile),
    onFailure: (error) => app.log.error({ err: error }, 'loading the default model failed'),
  })
  if (!safetyChecker) app.log.warn(noSafetyChecker)
  return { predictions, outputs, observers, setup }
}

/** Kubernetes looks for this file in a Cog container. */
function announceReady(app: FastifyInstance, file: string | undefined): void {
  if (file === undefined) return
  touchReadyFile(file).catch((error: unknown) =>
    app.log.warn({ err: error, file }, 'could not write the readiness file'),
  )
}

function startPredictions(
  app: FastifyInstance,
  { config, worker, services }: PartOptions,
  observers: Observers,
): Predictions {
  const { store, files } = services
  const stopObserving = worker.feed.observe(observers.onEvent)
  const predictions = createPredictions({
    store,
    worker,
    files,
    settings: {
      noise: config.noise,
      goFastLoraMultiplier: config.goFastLoraMultiplier,
      safetyChecker: config.safetyModel !== undefined,
    },
    maxQueue: config.maxQueue,
    drainMs: 1000 * config.drainSeconds,
    onEvent: observers.onEvent,
    onFault: (error) => app.log.error({ err: error }, 'canceling overdue predictions failed'),
  })
  const stopRetention = startRetention({
    store: store.predictions,
    files,
    retentionMs: 1000 * config.retentionSeconds,
    onFault: (error) => app.log.error({ err: error }, 'the retention sweep failed'),
  })
  app.addHook('preClose', async () => {
    stopRetention()
    await predictions.stop()
    stopObserving()
    await observers.stop()
  })
  return predictions
}

function openCogOutputs(app: FastifyInstance, { config, services }: PartOptions) {
  const ownClient = createGuardedClient({ allowAddress: () => true })
  app.addHook('onClose', () => ownClient.close())
  return createCogOutputs({
    files: services.files,
    uploadUrl: config.cog.uploadUrl,
    ownClient,
    foreignClient: services.client,
    onFailure: (error) => app.log.warn({ err: error }, 'upload failed'),
  })
}

function listeningUrl(app: FastifyInstance): string {
  const address = app.server.address() as AddressInfo | null
  return `http://localhost:${address?.port ?? 80}`
}
