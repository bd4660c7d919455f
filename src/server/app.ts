/** The HTTP application: its surfaces over the predictions, the catalog and the files. */
import { join } from 'node:path'
import Fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { type Logger, pino } from 'pino'
import { readBuild } from '../build.js'
import type { Config } from '../config/config.js'
import type { WorkerPort } from '../predictions/workerPort.js'
import type { Metrics } from '../telemetry/metrics.js'
import { isLoopback } from './auth/listenHost.js'
import type { Services } from './context.js'
import { logReplies } from './http/accessLog.js'
import { guardRoutes } from './http/auth.js'
import { acceptJsonOnly, longestRequestMs, maxBodyBytes } from './http/bodyParser.js'
import { rereadCatalog } from './http/catalogRefresh.js'
import { replyToUnknownPaths, sendProblem } from './http/cog/errors.js'
import { healthRoutes } from './http/cog/healthCheck.js'
import { cogRoutes } from './http/cog/routes.js'
import { addDocs } from './http/docs.js'
import { longestPart, refusePath } from './http/frameworkErrors.js'
import { releaseConnections } from './http/gracefulClose.js'
import { addHeaders } from './http/headers.js'
import { acceptForms } from './http/multipart.js'
import { createOriginCheck } from './http/originCheck.js'
import { outputRoutes } from './http/outputFiles.js'
import { metricsRoutes, probeRoutes } from './http/probes.js'
import { createPublicUrl } from './http/publicUrl.js'
import { limitRates } from './http/rateLimit.js'
import { replicateRoutes } from './http/replicate/routes.js'
import { checkRequestHeaders } from './http/requestHeaders.js'
import { compileValidator } from './http/zod.js'
import type { Predictions } from './predictions/service.js'
import { type PartSettings, type Parts, startParts } from './wiring.js'

export type AppSettings = PartSettings &
  Pick<Config, 'host' | 'outputMode' | 'corsOrigins' | 'dataDir'>

export type AppOptions = {
  /** `host` is where the server will listen. */
  readonly config: AppSettings
  /** Its engines stay the caller's, as do the services: closing the app does not stop them. */
  readonly worker: WorkerPort
  readonly metrics: Metrics
  readonly services: Services
  readonly logger?: Logger
  /** Ends the server: what `POST /shutdown` asks for. */
  readonly shutdown?: () => void
  /** What is wrong with the machine now; such a server is not ready. */
  readonly listProblems?: () => readonly string[]
}

declare module 'fastify' {
  interface FastifyInstance {
    /** `drain` comes before `close` when the server ends. */
    readonly predictions: Predictions
  }
}

/**
 * The app, not yet listening. The default model begins to load, and what an earlier server left
 * unfinished begins to run; closing interrupts what still runs.
 */
export function buildApp(options: AppOptions): FastifyInstance {
  const { config, services, logger } = options
  const log: FastifyBaseLogger = logger ?? pino({ level: 'silent' })
  const app = Fastify({
    loggerInstance: log,
    bodyLimit: maxBodyBytes,
    requestTimeout: longestRequestMs,
    frameworkErrors: refusePath,
    routerOptions: { maxParamLength: longestPart },
    // One line for each reply, by accessLog.ts.
    logController: new LogController({ disableRequestLogging: true }),
  })
  releaseConnections(app)
  const parts = startParts(app, options)
  app.decorate('predictions', parts.predictions)
  acceptJsonOnly(app)
  checkRequestHeaders(app)
  app.setValidatorCompiler(compileValidator)
  app.setErrorHandler(sendProblem)
  logReplies(app)
  // What these add to routes they add to those that are registered later.
  app.register(async (routes) => {
    await addHeaders(routes, config.corsOrigins)
    replyToUnknownPaths(routes)
    guardRoutes(routes, {
      keys: services.keys,
      // A server that other machines reach needs a key, even when the last one has been removed.
      isOpen: async () => isLoopback(config.host) && !(await services.keys.areConfigured()),
      assertNoForeignPage: createOriginCheck(config),
    })
    await limitRates(routes)
    rereadCatalog(routes, services.catalog)
    await addDocs(routes, { version: readBuild().version, publicUrl: config.publicUrl })
    addRoutes(routes, parts, options)
  })
  return app
}

function addRoutes(app: FastifyInstance, parts: Parts, options: AppOptions): void {
  const {
    config,
    worker,
    metrics,
    services,
    shutdown = () => {},
    listProblems = () => [],
  } = options
  const { predictions, outputs, setup } = parts
  acceptForms(app)
  cogRoutes(app, {
    predictions,
    catalog: services.catalog,
    outputs,
    files: services.files,
    model: config.cog.model,
    refusesWhenBusy: config.cog.busy === '409',
    isSettingUp: () => setup().status === 'starting',
    shutdown,
  })
  healthRoutes(app, worker, setup)
  probeRoutes(app, { worker, setup, predictions, listProblems })
  metricsRoutes(app, metrics)
  outputRoutes(app, services.files)
  addReplicate(app, parts, options)
}

function addReplicate(app: FastifyInstance, parts: Parts, { config, services }: AppOptions): void {
  replicateRoutes(app, {
    predictions: parts.predictions,
    webhooks: parts.observers.webhooks,
    catalog: services.catalog,
    files: services.files,
    deployments: services.store.deployments,
    runs: services.store.runs,
    publicUrl: createPublicUrl(config.publicUrl),
    outputMode: config.outputMode,
    webhookKey: services.webhookKey,
    downloadSecret: services.downloadSecret,
    scratchFolder: join(config.dataDir, 'scratch/server/uploads'),
  })
}
