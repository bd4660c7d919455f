/** What the app's surfaces stand on: its predictions, and what is told of them. */
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { Config } from '../config/config.js'
import { withOwnFiles } from '../files/localFiles.js'
import { createGuardedClient } from '../net/guardedClient.js'
import type { Engine } from '../worker/engine/client.js'
import type { Services } from './context.js'
import { type CogOutputs, createCogOutputs } from './http/cog/outputs.js'
import { touchReadyFile } from './http/probes.js'
import { createReporting, type Reporting } from './observers.js'
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
  readonly engine: Engine
  readonly services: Services
}

export type Parts = {
  readonly predictions: Predictions
  readonly outputs: CogOutputs
  readonly reporting: Reporting
  readonly setup: () => Setup
}

/**
 * Starts them; they end with `app`. The default model begins to load, and what an earlier server left
 * unfinished begins to run.
 */
export function startParts(app: FastifyInstance, options: PartOptions): Parts {
  const { config, engine, services } = options
  const safetyChecker = config.safetyModel !== undefined
  const outputs = openCogOutputs(app, options)
  const reporting = createReporting({
    config,
    services,
    logger: app.log as Logger,
    outputs,
    find: (id) => predictions.get(id),
    serverUrl: ({ webhook }) => config.publicUrl ?? webhook?.serverUrl ?? listeningUrl(app),
  })
  const predictions = startPredictions(app, options, reporting)
  reporting.watch(predictions)
  const setup = startSetup(engine, {
    safetyChecker,
    onReady: () => tellKubernetes(app, config.readyFile),
    onFailure: (error) => app.log.error({ err: error }, 'setup failed'),
  })
  if (!safetyChecker) app.log.warn(noSafetyChecker)
  return { predictions, outputs, reporting, setup }
}

function tellKubernetes(app: FastifyInstance, file: string | undefined): void {
  if (file === undefined) return
  touchReadyFile(file).catch((error: unknown) =>
    app.log.warn({ err: error }, 'nobody is told that this server is ready'),
  )
}

function startPredictions(
  app: FastifyInstance,
  { config, engine, services }: PartOptions,
  reporting: Reporting,
): Predictions {
  const { database, files } = services
  const onFault = (error: unknown) => app.log.error({ err: error }, 'prediction failed')
  const predictions = createPredictions({
    ...{ database, files, maxQueue: config.maxQueue, onFault, onEvent: reporting.onEvent },
    engine: reporting.observeEngine(engine),
    library: reporting.observeLibrary(services.library),
    media: withOwnFiles(services.media, files),
    settings: { ...config, safetyChecker: config.safetyModel !== undefined },
    drainMs: 1000 * config.drainSeconds,
  })
  const retentionMs = 1000 * config.retentionSeconds
  const stopRetention = startRetention({ database, files, retentionMs, onFault })
  app.addHook('preClose', async () => {
    stopRetention()
    await predictions.stop()
    await reporting.stop()
  })
  return {
    ...predictions,
    async create(request) {
      const prediction = await predictions.create(request)
      if (request.traceparent) reporting.rememberTrace(prediction.id, request.traceparent)
      return prediction
    },
  }
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
