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
import { fillStore, msPerPrediction, wish } from './filledStore.js'
import type { Listening, Measured, ServerSettings } from './httpServer.js'
import { type Client, connect, saturate, sendSteadily, type Times } from './load.js'

type Context = {
  readonly client: Client
  readonly seconds: number
  readonly ids: readonly string[]
}

type Scenario = {
  readonly name: string
  readonly server: Partial<ServerSettings>
  readonly connections: number
  /** Whether it asks for what is in the store already. */
  readonly needsStore?: boolean
  /** Before the measurement; ids of predictions that live. */
  readonly prepare?: (client: Client) => Promise<string[]>
  /** What is reported for each kind of request. */
  readonly run: (context: Context) => Promise<Readonly<Record<string, Times>>>
}

const still = { engine: 'still' } as const
const targetRate = 800

const creating = (connections: number, server: Partial<ServerSettings> = {}): Scenario => ({
  name: ['create', connections, ...Object.values(server)].join(' '),
  server: { ...still, ...server },
  connections,
  run: async ({ client, seconds }) => ({
    create: await saturate(() => client.create(wish), connections, seconds),
  }),
})

const getting = (name: string, scenario: Partial<Scenario>): Scenario => ({
  name,
  server: still,
  connections: 16,
  run: async ({ client, seconds, ids }) => ({
    get: await saturate(() => client.get(pick(ids)), 16, seconds),
  }),
  ...scenario,
})

const scenarios: readonly Scenario[] = [
  creating(1),
  creating(16),
  creating(64),
  {
    name: 'create and get, 800/s each',
    server: still,
    connections: 64,
    prepare: (client) => createMany(client, 200),
    run: async ({ client, seconds, ids }) => {
      const [create, get] = await Promise.all([
        sendSteadily(() => client.create(wish), targetRate, seconds),
        sendSteadily(() => client.get(pick(ids)), targetRate, seconds),
      ])
      return { create, get }
    },
  },
  getting('get finished 16', { needsStore: true }),
  getting('get live 16', { prepare: (client) => createMany(client, 200) }),
  {
    name: 'create and wait',
    server: {},
    connections: 1,
    run: async ({ client, seconds }) => ({
      create: await saturate(() => client.create(wish, 'wait'), 1, seconds),
    }),
  },
  {
    name: 'create and wait 16',
    server: {},
    connections: 16,
    run: async ({ client, seconds }) => ({
      create: await saturate(() => client.create(wish, 'wait'), 16, seconds),
    }),
  },
  {
    name: 'list 1',
    server: still,
    connections: 1,
    needsStore: true,
    run: async ({ client, seconds }) => ({ list: await saturate(() => client.list(), 1, seconds) }),
  },
  {
    name: 'list from the middle 1',
    server: still,
    connections: 1,
    needsStore: true,
    run: async ({ client, seconds, ids }) => {
      const middle = new Date(Date.now() - (ids.length / 2) * msPerPrediction).toISOString()
      return { list: await saturate(() => client.list(`created_before=${middle}`), 1, seconds) }
    },
  },
]

/** What durability and the log cost, at the same load; with 10,000 predictions only. */
const variants: readonly Scenario[] = [
  creating(16, { logLevel: 'silent' }),
  ...[1, 16, 64].flatMap((connections) => [
    creating(connections, { groupCommit: false }),
    creating(connections, { synchronous: 'NORMAL' }),
    creating(connections, { synchronous: 'NORMAL', groupCommit: false }),
  ]),
]

const production: Omit<ServerSettings, 'folder'> = {
  engine: 'instant',
  logLevel: 'info',
  synchronous: 'FULL',
  groupCommit: true,
}

/** One scenario on a server and a store of its own. */
async function measure(scenario: Scenario, store: Store, seconds: number) {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-'))
  cpSync(store.folder, folder, { recursive: true })
  const server = await startServer({ ...production, ...scenario.server, folder })
  const client = connect(server.listening, scenario.connections)
  try {
    const ids = (await scenario.prepare?.(client)) ?? store.ids
    // The first requests are slow: code is compiled, pages are read.
    await scenario.run({ client, ids, seconds: Math.min(1, seconds) })
    server.begin()
    const [load] = loadavg()
    const times = await scenario.run({ client, ids, seconds })
    const { cpuSeconds, ...measured } = await server.tell()
    const requests = Object.values(times).reduce((sum, { ms }) => sum + ms.length, 0)
    return {
      scenario: scenario.name,
      predictions: store.ids.length,
      load: round(load!, 1),
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
  const [listening] = (await once(child, 'message')) as [Listening]
  return {
    listening,
    begin: () => void child.send('begin'),
    async tell(): Promise<Measured> {
      child.send('tell')
      return (await once(child, 'message'))[0]
    },
    async stop() {
      const gone = once(child, 'exit')
      child.disconnect()
      await gone
    },
  }
}

async function createMany(client: Client, count: number): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, () => client.create(wish)))
}

const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!

function describe({ ms, seconds }: Times) {
  const sorted = [...ms].sort((a, b) => a - b)
  const at = (share: number) => round(sorted[Math.floor(share * (sorted.length - 1))] ?? 0)
  return {
    perSecond: round(ms.length / seconds, 0),
    // What it takes when nobody else uses the cores.
    ...{ p10: at(0.1), p50: at(0.5), p99: at(0.99), longest: at(1) },
  }
}

const round = (value: number, digits = 2) => Number(value.toFixed(digits))

const mapValues = <A, B>(record: Readonly<Record<string, A>>, change: (value: A) => B) =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]))

/** What the disk takes to keep 4 kB, in ms: every promise of the store waits for it. */
function measureSync() {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-'))
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

type Store = { readonly folder: string; readonly ids: readonly string[] }

function makeStore(count: number): Store {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-bench-'))
  return { folder, ids: fillStore(folder, count) }
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
  const store = makeStore(count)
  try {
    const wanted = [...scenarios, ...(count === 10_000 ? variants : [])].filter(
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
