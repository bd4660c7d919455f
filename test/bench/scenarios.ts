/** What is asked of a server, and how hard. A number at the end of a name is that of the connections. */
import { msPerPrediction, wish } from './filledStore.js'
import type { ServerSettings } from './httpServer.js'
import { type Client, saturate, sendSteadily, type Times } from './load.js'

export type Context = {
  readonly client: Client
  readonly seconds: number
  /** Of predictions to ask for. */
  readonly ids: readonly string[]
}

export type Scenario = {
  readonly name: string
  readonly server: Partial<ServerSettings>
  readonly connections: number
  /** Whether it asks for what is in the store already. */
  readonly needsStore?: boolean
  /** Before the measurement; ids of predictions that live. */
  readonly prepare?: (client: Client) => Promise<string[]>
  /** What is reported, for each kind of request. */
  readonly run: (context: Context) => Promise<Readonly<Record<string, Times>>>
}

const still = { engine: 'still' } as const
const targetRate = 800
const liveCount = 200

const creating = (
  connections: number,
  name = '',
  server: Partial<ServerSettings> = {},
): Scenario => ({
  name: `create${name} ${connections}`,
  server: { ...still, ...server },
  connections,
  run: async ({ client, seconds }) => ({
    create: await saturate(() => client.create(wish), connections, seconds),
  }),
})

const waiting = (connections: number): Scenario => ({
  name: `create and wait ${connections}`,
  server: {},
  connections,
  run: async ({ client, seconds }) => ({
    create: await saturate(() => client.create(wish, 'wait'), connections, seconds),
  }),
})

const getting = (name: string, connections: number, more: Partial<Scenario>): Scenario => ({
  name: `get ${name} ${connections}`,
  server: still,
  connections,
  run: async ({ client, seconds, ids }) => ({
    get: await saturate(() => client.get(pick(ids)), connections, seconds),
  }),
  ...more,
})

const listing = (name: string, queryOf: (count: number) => string): Scenario => ({
  name: `${name} 1`,
  server: still,
  connections: 1,
  needsStore: true,
  run: async ({ client, seconds, ids }) => {
    const query = queryOf(ids.length)
    return { list: await saturate(() => client.list(query), 1, seconds) }
  },
})

const createAndGet: Scenario = {
  name: `create and get, ${targetRate}/s each`,
  server: still,
  connections: 64,
  prepare: createLive,
  run: async ({ client, seconds, ids }) => {
    const [create, get] = await Promise.all([
      sendSteadily(() => client.create(wish), targetRate, seconds),
      sendSteadily(() => client.get(pick(ids)), targetRate, seconds),
    ])
    return { create, get }
  },
}

/** With a store of any size. */
export const scenarios: readonly Scenario[] = [
  creating(1),
  creating(16),
  creating(64),
  createAndGet,
  getting('finished', 1, { needsStore: true }),
  getting('finished', 16, { needsStore: true }),
  getting('live', 16, { prepare: createLive }),
  waiting(1),
  waiting(16),
  listing('list', () => ''),
  listing('list from the middle', (count) => {
    const middle = new Date(Date.now() - (count / 2) * msPerPrediction)
    return `created_before=${middle.toISOString()}`
  }),
]

/** What the log costs, at the same load. */
export const variants: readonly Scenario[] = [creating(16, ', no log', { logLevel: 'silent' })]

async function createLive(client: Client): Promise<string[]> {
  return Promise.all(Array.from({ length: liveCount }, () => client.create(wish)))
}

const pick = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!
