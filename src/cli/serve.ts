/** `fluxd serve`: runs the HTTP server and its engine until a signal stops both. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Logger, pino } from 'pino'
import { readBuild } from '../build.js'
import type { Config } from '../config/config.js'
import { engineEnvironment } from '../config/engineEnvironment.js'
import type { Target } from '../doctor/examination.js'
import { chooseTarget, watchMachine } from '../doctor/target.js'
import { hasCode, invalidConfig } from '../errors.js'
import type { WorkerPort } from '../predictions/workerPort.js'
import { buildApp } from '../server/app.js'
import { chooseHost } from '../server/auth/listenHost.js'
import { openServices, type Services } from '../server/context.js'
import { createMetrics } from '../telemetry/metrics.js'
import { createTerminalLog } from '../telemetry/terminalLog.js'
import { startEngine } from '../worker/engine/client.js'
import type { WorkerEngine, WorkerOptions } from '../worker/worker.js'
import { startLocalWorker } from './localWorker.js'

const noKeys =
  'no API key is configured: listening for this machine only; make one with `fluxd keys add NAME`'

type App = ReturnType<typeof buildApp>

/**
 * Listens and prints the address and the checkpoints; logs go to stderr. Throws if it cannot
 * listen.
 */
export async function serve(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel }, openLog())
  for (const warning of config.warnings) logger.warn(warning)
  logger.info({ config }, 'configuration')
  const target = await chooseTarget(config)
  logger.info(target, 'device')
  const services = await openServices(config)
  expectModel(services, config.cog.model)
  const metrics = createMetrics(readBuild())
  const engines = startEngines(config, target, logger)
  const onFault: WorkerOptions['onFault'] = (error, prediction) =>
    logger.error({ err: error, prediction }, 'worker fault')
  const worker = startLocalWorker(engines, services, config, metrics, onFault)
  const machine = watchMachine(target.device, config, (error) =>
    logger.warn({ err: error }, 'the machine could not be examined'),
  )
  const end = once(async () => {
    logger.info(
      `shutting down; a running prediction has ${config.drainSeconds} s to end, ` +
        'a second signal ends it now',
    )
    machine.stop()
    await close(app, engines, worker, services)
  })
  const host = chooseHost(config.host, await services.keys.areConfigured())
  if (host !== config.host) logger.warn({ wanted: config.host, host }, noKeys)
  const app = buildApp({
    config: { ...config, host },
    worker,
    metrics,
    services,
    logger,
    shutdown: end,
    listProblems: machine.listProblems,
  })
  try {
    const address = await app.listen({ host, port: config.port })
    process.stdout.write(announce(address, config))
  } catch (error) {
    await end()
    throw explainListening(error, host, config.port)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
}

/** Lines for people on a terminal, else JSON. */
const openLog = () =>
  process.stderr.isTTY ? createTerminalLog(process.stderr) : pino.destination(2)

/** One engine for each GPU that is to be used, or as many as asked for where there is none. */
function startEngines(config: Config, target: Target, logger: Logger): WorkerEngine[] {
  const { checkpoints, cudaGraphs, threads, vae, safetyModel: safety } = config
  const scratch = emptyScratch(config)
  return listExecutors(config, target).map((gpu, index) => ({
    gpu,
    engine: startEngine(
      {
        ...target,
        checkpoints,
        vae,
        cudaGraphs,
        threads,
        scratch: join(scratch, String(index)),
        safety,
      },
      logger.child({ executor: index }),
      engineEnvironment(gpu),
    ),
  }))
}

/** The GPU of each executor; a machine without one has as many executors as are asked for. */
function listExecutors({ gpus, executors }: Config, target: Target): (number | undefined)[] {
  if (gpus === 'none') return []
  if (target.device === 'cpu') return Array.from({ length: executors ?? 1 }, () => undefined)
  return gpus === 'all' ? [...target.gpus] : [...gpus]
}

/** Empties the engines' scratch folder: files that a killed engine left there are large. */
function emptyScratch({ dataDir }: Config): string {
  const scratch = join(dataDir, 'scratch/server')
  rmSync(scratch, { recursive: true, force: true })
  return scratch
}

function expectModel({ catalog }: Services, model: string): void {
  const [owner = '', name = ''] = model.split('/')
  if (!catalog.find(owner, name))
    throw invalidConfig(
      `Expected FLUXD_COG_MODEL to be a model of the catalog but received ${JSON.stringify(model)}`,
    )
}

function explainListening(error: unknown, host: string, port: number): unknown {
  if (hasCode(error, 'EADDRINUSE'))
    return invalidConfig(
      `Expected port ${port} of ${host} to be free but another program listens there; ` +
        'set FLUXD_PORT',
    )
  if (hasCode(error, 'EADDRNOTAVAIL', 'ENOTFOUND'))
    return invalidConfig(
      `Expected FLUXD_HOST to be an address of this machine but received ${host}`,
    )
  return error
}

/** Lets running predictions end; those that wait stay on disk for the next start. */
async function close(
  app: App,
  engines: readonly WorkerEngine[],
  worker: WorkerPort,
  services: Services,
): Promise<void> {
  // Not for engines that load or never became ready.
  if (worker.executors().some(({ engine }) => engine === 'busy')) await app.predictions.drain()
  // Before the engines, so that their end is not taken for a failure; not awaited: it waits for
  // them.
  const stopping = app.predictions.stop()
  await Promise.all([app.close(), ...engines.map(({ engine }) => engine.stop()), stopping])
  await services.close()
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined
  return () => {
    done ??= work()
    return done
  }
}

const announce = (address: string, { checkpoints }: Config) =>
  `fluxd listens on ${address}\n` +
  `  dev      ${checkpoints.dev}\n` +
  `  schnell  ${checkpoints.schnell}\n`
