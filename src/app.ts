/** The HTTP application: its parts, and the one place where an error becomes a reply. */
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { type Logger, pino } from 'pino'
import type { Config } from './config.js'
import type { Engine } from './engine/engine.js'
import { acceptJsonOnly, maxBodyBytes } from './http/body.js'
import { cogRoutes } from './http/cog.js'
import { healthRoutes } from './http/health.js'
import { toProblem } from './http/problems.js'
import { compileValidator } from './http/zod.js'
import { createMediaClient, type MediaClient } from './media/fetch.js'
import { createPredictions } from './predictions/service.js'
import { startSetup } from './predictions/setup.js'

export type AppOptions = {
  readonly config: Pick<Config, 'noise'>
  /** Stays the caller's: closing the app does not stop it. */
  readonly engine: Engine
  /** Fetches what inputs name; by default from public servers only. */
  readonly media?: MediaClient
  readonly logger?: Logger
}

/** The app, not yet listening. The default model begins to load; closing cancels what still runs. */
export function buildApp({
  config,
  engine,
  media = createMediaClient(),
  logger,
}: AppOptions): FastifyInstance {
  const log: FastifyBaseLogger = logger ?? pino({ level: 'silent' })
  const app = Fastify({
    loggerInstance: log,
    bodyLimit: maxBodyBytes,
    frameworkErrors: sendProblem,
  })
  const logFault = (error: unknown) => log.error({ err: error }, 'prediction failed')
  const predictions = createPredictions({
    engine,
    media,
    noise: config.noise,
    onFault: logFault,
  })
  const setup = startSetup(engine, (error) => log.error({ err: error }, 'setup failed'))

  acceptJsonOnly(app)
  app.setValidatorCompiler(compileValidator)
  replyToErrors(app)
  cogRoutes(app, predictions)
  healthRoutes(app, engine, setup)
  app.addHook('preClose', async () => predictions.stop())
  app.addHook('onClose', () => media.close())
  return app
}

function replyToErrors(app: FastifyInstance): void {
  app.setErrorHandler(sendProblem)
  app.setNotFoundHandler((_request, reply) => reply.code(404).send({ detail: 'Not Found' }))
}

function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { status, body } = toProblem(error)
  if (status >= 500) request.log.error({ err: error }, 'request failed')
  reply.code(status).send(body)
}
