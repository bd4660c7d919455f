/** The HTTP application: its parts, and the one place where an error becomes a reply. */
import type { AddressInfo } from 'node:net'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify'
import { type Logger, pino } from 'pino'
import { isLoopback } from './access/host.js'
import type { Config } from './config.js'
import { openApiDocument } from './contract/openapi.js'
import type { Engine } from './engine/engine.js'
import { FluxdError } from './errors.js'
import { logReplies } from './http/accessLog.js'
import { guardRoutes } from './http/auth.js'
import { acceptJsonOnly, maxBodyBytes } from './http/body.js'
import { cogRoutes } from './http/cog.js'
import { createCogOutputs } from './http/cogOutputs.js'
import { releaseConnections } from './http/connections.js'
import { docsRoutes } from './http/docs.js'
import { healthRoutes } from './http/health.js'
import { metricsRoutes } from './http/metrics.js'
import { acceptForms } from './http/multipart.js'
import { outlookHeaders } from './http/outlook.js'
import { outputRoutes } from './http/outputs.js'
import { probeRoutes, touchReadyFile } from './http/probes.js'
import { toProblem } from './http/problems.js'
import { createPublicUrl } from './http/publicUrl.js'
import { limitRates } from './http/rates.js'
import { replicateRoutes } from './http/replicate/routes.js'
import { rememberRoutes } from './http/routeMethods.js'
import { compileValidator } from './http/zod.js'
import { createGuardedClient } from './media/guarded.js'
import { withOwnFiles } from './predictions/ownFiles.js'
import { startRetention } from './predictions/retention.js'
import { createPredictions, type Predictions } from './predictions/service.js'
import { noSafetyChecker, type Setup, startSetup } from './predictions/setup.js'
import { createReporting, type Reporting } from './reporting.js'
import type { Services } from './services.js'
import { createDeploymentStore } from './store/deployments.js'
import { createRunCounts } from './store/runs.js'
import { createSecretStore, toWebhookKey } from './store/secrets.js'

export type AppSettings = Pick<
  Config,
  | 'host'
  | 'noise'
  | 'goFastLoraMultiplier'
  | 'safetyModel'
  | 'maxQueue'
  | 'retentionSeconds'
  | 'drainSeconds'
  | 'publicUrl'
  | 'outputMode'
  | 'corsOrigins'
  | 'otlpUrl'
  | 'readyFile'
  | 'webhookToken'
  | 'cog'
>

export type AppOptions = {
  /** `host` is where the server will listen. */
  readonly config: AppSettings
  /** Stays the caller's, as do the services: closing the app does not stop it. */
  readonly engine: Engine
  readonly services: Services
  readonly logger?: Logger
  /** Ends the server: what `POST /shutdown` asks for. */
  readonly shutdown?: () => void
  /** What is wrong with the machine now; such a server is not ready. */
  readonly listProblems?: () => readonly string[]
}

declare module 'fastify' {
  interface FastifyInstance {
    /** For who ends the server: `drain` comes before `close`. */
    readonly predictions: Predictions
  }
}

/** The app's own parts, which its surfaces stand on. */
type Parts = {
  readonly predictions: Predictions
  readonly outputs: ReturnType<typeof createCogOutputs>
  readonly reporting: Reporting
  readonly setup: () => Setup
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
    frameworkErrors: sendProblem,
    // One line for each reply, by accessLog.ts.
    logController: new LogController({ disableRequestLogging: true }),
  })
  releaseConnections(app)
  const parts = startParts(app, options)
  app.decorate('predictions', parts.predictions)
  acceptJsonOnly(app)
  app.setValidatorCompiler(compileValidator)
  replyToErrors(app)
  logReplies(app)
  // What these add to routes they add to those that are registered later.
  app.register(async (routes) => {
    await routes.register(helmet, contentHeaders)
    await allowOrigins(routes, config.corsOrigins)
    // Who came from elsewhere needs a key, even when the last one has been removed.
    const isOpen = () => isLoopback(config.host) && !services.keys.areConfigured()
    guardRoutes(routes, services.keys, isOpen)
    await limitRates(routes)
    rereadCatalog(routes, services.catalog)
    addRoutes(routes, parts, options)
  })
  return app
}

const catalogPollMs = 1000

/** What `fluxd models` adds or removes counts a second later at most. */
function rereadCatalog(app: FastifyInstance, catalog: Services['catalog']): void {
  let looking = Promise.resolve()
  let lookAtMs = 0
  app.addHook('onRequest', async (request) => {
    const now = performance.now()
    if (now >= lookAtMs) {
      lookAtMs = now + catalogPollMs
      looking = catalog
        .refresh()
        .catch((error: unknown) => request.log.error({ err: error }, 'the catalog is as it was'))
    }
    // Everybody waits, so that nobody overtakes who looks.
    await looking
  })
}

/** Pictures may be shown anywhere; nothing here is a page but the documentation. */
const contentHeaders = {
  contentSecurityPolicy: {
    useDefaults: false,
    directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
  },
  crossOriginResourcePolicy: { policy: 'cross-origin' },
  // Whether this host is to be reached by https only is its proxy's to say.
  strictTransportSecurity: false,
} as const

/** A page elsewhere may read what a client may: replies, and where a prediction is. */
async function allowOrigins(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  if (origins.length === 0) return
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'QUERY'],
    exposedHeaders: [
      'location',
      'retry-after',
      'preference-applied',
      ...Object.values(outlookHeaders),
    ],
  })
}

function startParts(app: FastifyInstance, options: AppOptions): Parts {
  const { config, engine, services } = options
  const safetyChecker = config.safetyModel !== undefined
  const outputs = openCogOutputs(app, options)
  const reporting = createReporting({
    config,
    services,
    logger: app.log as Logger,
    outputs,
    find: (id) => predictions.get(id),
    baseUrl: () => config.publicUrl ?? listeningUrl(app),
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
  { config, engine, services }: AppOptions,
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

function openCogOutputs(app: FastifyInstance, { config, services }: AppOptions) {
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

function addRoutes(app: FastifyInstance, parts: Parts, options: AppOptions): void {
  const { config, engine, services, shutdown = () => {}, listProblems = () => [] } = options
  const { predictions, outputs, reporting, setup } = parts
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
  healthRoutes(app, engine, setup)
  probeRoutes(app, () => [...listReasons(engine, setup(), predictions), ...listProblems()])
  metricsRoutes(app, reporting.metrics)
  outputRoutes(app, services.files)
  addReplicate(app, parts, options)
  app.register(async (docs) => docsRoutes(docs, openApiDocument()))
}

/** Why predictions should go elsewhere now. */
function listReasons(engine: Engine, setup: Setup, predictions: Predictions): string[] {
  const status = engine.status()
  const reasons = [
    status === 'ready' || status === 'busy' ? undefined : `the engine is ${status}`,
    setup.status === 'succeeded' ? undefined : `setup has ${describeSetup[setup.status]}`,
    predictions.refusal(),
  ]
  return reasons.filter((reason) => reason !== undefined)
}

const describeSetup = { starting: 'not finished', failed: 'failed' } as const

function addReplicate(app: FastifyInstance, parts: Parts, { config, services }: AppOptions): void {
  const secrets = createSecretStore(services.database)
  replicateRoutes(app, {
    predictions: parts.predictions,
    webhooks: parts.reporting.webhooks,
    catalog: services.catalog,
    files: services.files,
    deployments: createDeploymentStore(services.database),
    runs: createRunCounts(services.database),
    publicUrl: createPublicUrl(config.publicUrl),
    outputMode: config.outputMode,
    webhookKey: toWebhookKey(secrets.read('webhooks')),
    downloadSecret: secrets.read('downloads'),
  })
}

function listeningUrl(app: FastifyInstance): string {
  const address = app.server.address() as AddressInfo | null
  return `http://localhost:${address?.port ?? 80}`
}

function replyToErrors(app: FastifyInstance): void {
  const listMethods = rememberRoutes(app)
  app.setErrorHandler(sendProblem)
  app.setNotFoundHandler((request, reply) => {
    const methods = listMethods(request.url)
    if (methods.length === 0) return reply.code(404).send({ detail: 'Not Found' })
    return reply
      .code(405)
      .header('allow', methods.join(', '))
      .send({ detail: 'Method Not Allowed' })
  })
}

function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { status, body } = toProblem(error)
  if (status >= 500) request.log.error({ err: error }, 'request failed')
  if (error instanceof FluxdError && error.retryAfterSeconds !== undefined)
    reply.header('retry-after', Math.ceil(error.retryAfterSeconds))
  reply.code(status).send(body)
}
