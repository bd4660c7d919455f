/**
 * `npm run bench:http`: what the server itself takes, with an engine that takes no time: admissions per
 * second, times of create, get and list, event-loop delay and memory, with few predictions in the store
 * and with many. JSON on stdout (and in `--output`), a table on stderr.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  cpSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { fillStore } from './filledStore.js'
import type { Listening, Measured, ServerSettings } from './httpServer.js'
import { connect, type Times } from './load.js'
import { type Scenario, scenarios, variants } from './scenarios.js'

/** The size of the store with which variants are compared. */
const comparedAt = 10_000

const production: Omit<ServerSettings, 'folder'> = {
  engine: 'instant',
  logLevel: 'info',
}

/** One scenario on a server and a store of its own. */
async function measure(scenario: Scenario, store: Store, seconds: number) {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-http-'))
  cpSync(store.folder, folder, { recursive: true })
  const server = await startServer({ ...production, ...scenario.server, folder })
  const client = connect(server.listening, scenario.connections)
  try {
    const ids = (await scenario.prepare?.(client)) ?? store.ids
    // The first requests are slow: code is compiled, pages are read.
    await scenario.run({ client, ids, seconds: Math.min(1, seconds) })
    const [load] = loadavg()
    const coreMs = measureCore()
    server.begin()
    const times = await scenario.run({ client, ids, seconds })
    const { cpuSeconds, ...measured } = await server.tell()
    const requests = Object.values(times).reduce((sum, { ms }) => sum + ms.length, 0)
    return {
      scenario: scenario.name,
      predictions: store.ids.length,
      load: round(load!, 1),
      coreMs: round(coreMs, 0),
      times: mapValues(times, describe),
      cpuMsPerRequest: round((1000 * cpuSeconds) / requests),
      loopDelayMs: mapValues(measured.loopDelayMs, (ms) => round(ms, 1)),
      rssMegabytes: round(measured.rssMegabytes, 0),
    }
  } finally {
    await client.close()
    await server.stop()
    rmSync(folder, { recursive: true })
  }
}

async function startServer(settings: ServerSettings) {
  const path = fileURLToPath(new URL('httpServer.ts', import.meta.url))
  const child = fork(path, [JSON.stringify(settings)])
  const dead = once(child, 'exit').then(([code]) => {
    throw new Error(`The server ended with ${code}`)
  })
  // Whoever waits for a message is told; the end of a measurement is not an error.
  dead.catch(() => {})
  const receive = async () => (await Promise.race([once(child, 'message'), dead]))[0]
  return {
    listening: (await receive()) as Listening,
    begin: () => void child.send('begin'),
    async tell(): Promise<Measured> {
      child.send('tell')
      return receive()
    },
    async stop() {
      const gone = once(child, 'exit')
      child.disconnect()
      await gone
    },
  }
}

function describe({ ms, seconds }: Times) {
  const sorted = [...ms].sort((a, b) => a - b)
  const at = (share: number) => round(sorted[Math.floor(share * (sorted.length - 1))] ?? 0)
  return {
    perSecond: round(ms.length / seconds, 0),
    // What it takes when nobody else uses the cores.
    p10: at(0.1),
    p50: at(0.5),
    p99: at(0.99),
    longest: at(1),
  }
}

const round = (value: number, digits = 2) => Number(value.toFixed(digits))

const mapValues = <A, B>(record: Readonly<Record<string, A>>, change: (value: A) => B) =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]))

/** What the disk takes to keep 4 kB, in ms: every promise of the store waits for it. */
function measureSync() {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-http-'))
  const file = openSync(join(folder, 'page'), 'w')
  const ms: number[] = []
  for (let i = 0; i < 200; i++) {
    writeSync(file, Buffer.alloc(4096))
    const startedAtMs = performance.now()
    fsyncSync(file)
    ms.push(performance.now() - startedAtMs)
  }
  closeSync(file)
  rmSync(folder, { recursive: true })
  const { p50, p99 } = describe({ ms, seconds: 1 })
  return { p50, p99 }
}

/** What a core takes now for the same work, in ms: shared machines are not always as fast. */
function measureCore() {
  const startedAtMs = performance.now()
  let sum = 0
  for (let i = 0; i < 1e8; i++) sum += i % 7
  if (sum !== 299_999_995) throw new Error(`Expected the sum to be 299999995 but it is ${sum}`)
  return performance.now() - startedAtMs
}

type Store = { readonly folder: string; readonly ids: readonly string[] }

async function makeStore(count: number): Promise<Store> {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-http-'))
  return { folder, ids: await fillStore(folder, count) }
}

type Result = Awaited<ReturnType<typeof measure>>

function show({ scenario, predictions, load, times, ...rest }: Result): void {
  for (const [kind, { perSecond, p10, p50, p99 }] of Object.entries(times)) {
    const cells = [
      ...[scenario.padEnd(32), kind.padEnd(6), String(predictions).padStart(7)],
      ...[`${perSecond}/s`, `p10 ${p10} ms`, `p50 ${p50} ms`, `p99 ${p99} ms`],
      ...[
        `cpu ${rest.cpuMsPerRequest} ms`,
        `loop p99 ${rest.loopDelayMs['p99']} ms`,
        `${rest.rssMegabytes} MB`,
        `load ${load}`,
        `core ${rest.coreMs} ms`,
      ],
    ]
    process.stderr.write(`${cells.join('  ')}\n`)
  }
}

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    stores: { type: 'string', default: '0,10000,100000' },
    /** Only scenarios with this in their name. */
    only: { type: 'string', default: '' },
    output: { type: 'string' },
  },
})
const results: Result[] = []
const syncMs = [measureSync()]
for (const count of flags.stores.split(',').map(Number)) {
  const store = await makeStore(count)
  try {
    const wanted = [...scenarios, ...(count === comparedAt ? variants : [])].filter(
      ({ name, needsStore }) => name.includes(flags.only) && (!needsStore || count > 0),
    )
    for (const scenario of wanted) {
      const result = await measure(scenario, store, Number(flags.seconds))
      show(result)
      results.push(result)
    }
  } finally {
    rmSync(store.folder, { recursive: true })
  }
}
syncMs.push(measureSync())
const report = {
  date: new Date().toISOString(),
  cpu: cpus()[0]?.model,
  cores: cpus().length,
  node: process.version,
  syncMs,
  results,
}
const json = `${JSON.stringify(report, null, 2)}\n`
if (flags.output !== undefined) writeFileSync(flags.output, json)
process.stdout.write(json)
