/** `fluxd serve`: the HTTP server and its engine, until a signal ends both. */
import { pino } from 'pino'
import { buildApp } from '../app.js'
import type { Config } from '../config.js'
import { startEngine } from '../engine/engine.js'

/** Listens and prints where, with which checkpoints; logs go to stderr. Throws if it cannot listen. */
export async function serve(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel }, pino.destination(2))
  logger.info({ config }, 'configuration')
  const { checkpoints, threads } = config
  const engine = startEngine({ checkpoints, threads }, logger)
  const app = buildApp({ config, engine, logger })

  // Together: an engine that never became ready must not hold up the replies of a closing server.
  const close = () => Promise.all([app.close(), engine.stop()])
  try {
    const address = await app.listen({ host: config.host, port: config.port })
    process.stdout.write(announce(address, config))
  } catch (error) {
    await close()
    throw error
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, close)
}

const announce = (address: string, { checkpoints }: Config) =>
  `fluxd listens on ${address}\n` +
  `  dev      ${checkpoints.dev}\n` +
  `  schnell  ${checkpoints.schnell}\n`
