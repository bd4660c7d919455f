/** `fluxd serve`: the HTTP server and its engine, until a signal ends both. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../config/config.js'
import { invalidConfig } from '../errors.js'
import { buildApp } from '../server/app.js'
import { chooseHost } from '../server/auth/listenHost.js'
import { openServices, type Services } from '../server/context.js'
import { type Engine, startEngine } from '../worker/engine/client.js'
import { chooseTarget, watchMachine } from './doctor.js'

const noKeys =
  'no API key is configured, so only this machine is let in; make one with `fluxd keys add NAME`'

type App = ReturnType<typeof buildApp>

/** Listens and prints where, with which checkpoints; logs go to stderr. Throws if it cannot listen. */
export async function serve(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel }, pino.destination(2))
  logger.info({ config }, 'configuration')
  const target = await chooseTarget(config)
  logger.info(target, 'device')
  const services = await openServices(config)
  expectModel(services, config.cog.model)
  const { checkpoints, cudaGraphs, threads, vae, safetyModel: safety } = config
  const scratch = emptyScratch(config)
  const own = { checkpoints, ...target, vae, cudaGraphs, threads, scratch, safety }
  const engine = startEngine(own, logger)
  const machine = watchMachine(target.device, config)
  const end = once(async () => {
    logger.info('the server ends')
    machine.stop()
    await close(app, engine, services)
  })
  const host = chooseHost(config.host, services.keys.areConfigured())
  if (host !== config.host) logger.warn({ wanted: config.host, host }, noKeys)
  const { listProblems } = machine
  const settings = { ...config, host }
  const app = buildApp({ config: settings, engine, services, logger, shutdown: end, listProblems })
  try {
    const address = await app.listen({ host, port: config.port })
    process.stdout.write(announce(address, config))
  } catch (error) {
    await end()
    throw explainListening(error, host, config.port)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
}

/** What an engine that was killed left behind is large; nobody else uses this folder. */
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
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (code === 'EADDRINUSE')
    return invalidConfig(
      `Expected port ${port} of ${host} to be free but another program listens there; set FLUXD_PORT`,
    )
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return invalidConfig(
      `Expected FLUXD_HOST to be an address of this machine but received ${host}`,
    )
  return error
}

/** Lets the running prediction end; those that wait stay on disk for the next start. */
async function close(app: App, engine: Engine, services: Services): Promise<void> {
  // Not for an engine that loads or never became ready.
  if (engine.status() === 'busy') await app.predictions.drain()
  // Before the engine, so that its end is not taken for a failure, and not awaited, as it waits for it.
  void app.predictions.stop()
  await Promise.all([app.close(), engine.stop()])
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
