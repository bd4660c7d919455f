/**
 * The server of `http.ts`, in a process of its own: the real app and services with an engine that takes
 * no time. Its parent tells it when to begin to measure itself, and when to tell.
 */
import type { AddressInfo } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { pino } from 'pino'
import { readConfig } from '../../src/config/config.js'
import { buildApp } from '../../src/server/app.js'
import { openServices } from '../../src/server/context.js'
import { startTestWorker } from '../testWorker.js'
import { createInstantEngine, type EngineKind } from './instantEngine.js'

export type ServerSettings = {
  readonly folder: string
  readonly engine: EngineKind
  readonly logLevel: 'info' | 'silent'
}

export type Listening = { readonly origin: string; readonly key: string }

/** Of the server's process since it was told `begin`. */
export type Measured = {
  readonly cpuSeconds: number
  /** Milliseconds by which the event loop was late. */
  readonly loopDelayMs: { readonly p50: number; readonly p99: number; readonly longest: number }
  readonly rssMegabytes: number
}

const settings: ServerSettings = JSON.parse(process.argv[2]!)
const config = readConfig({
  FLUXD_DATA_DIR: settings.folder,
  FLUXD_RETENTION: '0',
  FLUXD_MAX_QUEUE: '100000',
  FLUXD_FILES_BYTES: '1TiB',
})
const services = await openServices(config)
const engine = createInstantEngine(settings.engine)
const { worker, metrics } = startTestWorker([engine], services, config)
const app = buildApp({
  config,
  worker,
  metrics,
  services,
  // As in production, where a line is written and not read.
  logger: pino({ level: settings.logLevel }, pino.destination('/dev/null')),
})
await app.listen({ port: 0, host: '127.0.0.1' })
// A limit that is never reached but is counted, as every user's is.
const key = await services.keys.issue({
  name: 'bench',
  scopes: ['predict'],
  priority: 0,
  ratePerMinute: 1_000_000_000,
})

const resolutionMs = 10
const loopDelay = monitorEventLoopDelay({ resolution: resolutionMs })
let cpu = process.cpuUsage()

process.on('message', (message) => {
  if (message === 'begin') begin()
  if (message === 'tell') process.send!(measure())
})
// Nobody asks any more.
process.on('disconnect', () => process.exit())
const { port } = app.server.address() as AddressInfo
process.send!({ origin: `http://127.0.0.1:${port}`, key } satisfies Listening)

function begin(): void {
  loopDelay.enable()
  loopDelay.reset()
  cpu = process.cpuUsage()
}

function measure(): Measured {
  const { user, system } = process.cpuUsage(cpu)
  // The histogram adds its own resolution to every sample.
  const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - resolutionMs)
  return {
    cpuSeconds: (user + system) / 1e6,
    loopDelayMs: {
      p50: late(loopDelay.percentile(50)),
      p99: late(loopDelay.percentile(99)),
      longest: late(loopDelay.max),
    },
    rssMegabytes: process.memoryUsage.rss() / 2 ** 20,
  }
}
