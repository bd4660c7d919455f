/** Requests to a server, and how long they took. */
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import type { Listening } from './httpServer.js'

export type Client = {
  /** POST of a wish; the id of the prediction. `prefer` is the header. */
  readonly create: (wish: object, prefer?: string) => Promise<string>
  readonly get: (id: string) => Promise<void>
  /** The first page; `query` as in a URL. */
  readonly list: (query?: string) => Promise<void>
  readonly close: () => Promise<void>
}

/** Throws when a reply is not the one that is wanted: a refusal is fast and no measurement. */
export function connect({ origin, key }: Listening, connections: number): Client {
  const pool = new Pool(origin, { connections, pipelining: 1 })
  const authorization = `Bearer ${key}`

  async function ask(path: string, expected: number, body?: string, prefer?: string) {
    const headers = {
      authorization,
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(prefer !== undefined && { prefer }),
    }
    const method = body === undefined ? 'GET' : 'POST'
    const reply = await pool.request({ path, method, headers, ...(body !== undefined && { body }) })
    const text = await reply.body.text()
    if (reply.statusCode === expected) return text
    throw new Error(`Expected ${method} ${path} to answer ${expected} but got ${text}`)
  }

  return {
    async create(input, prefer) {
      const body = JSON.stringify({ input })
      const text = await ask('/v1/models/fluxd/flux/predictions', 201, body, prefer)
      return (JSON.parse(text) as { id: string }).id
    },
    get: async (id) => void (await ask(`/v1/predictions/${id}`, 200)),
    list: async (query = '') => void (await ask(`/v1/predictions?${query}`, 200)),
    close: () => pool.close(),
  }
}

/** Milliseconds of each request. */
export type Times = { readonly seconds: number; readonly ms: readonly number[] }

/** `connections` clients, each of which asks again as soon as it has its answer. */
export async function saturate(
  send: () => Promise<unknown>,
  connections: number,
  seconds: number,
): Promise<Times> {
  const ms: number[] = []
  const startedAtMs = performance.now()
  const isOver = () => performance.now() - startedAtMs > seconds * 1000
  async function ask() {
    while (!isOver()) {
      const sentAtMs = performance.now()
      await send()
      ms.push(performance.now() - sentAtMs)
    }
  }
  await Promise.all(Array.from({ length: connections }, ask))
  return { seconds: (performance.now() - startedAtMs) / 1000, ms }
}

/** `perSecond` requests a second whatever the answers; a time counts from when it was to be sent. */
export async function sendSteadily(
  send: () => Promise<unknown>,
  perSecond: number,
  seconds: number,
): Promise<Times> {
  const ms: number[] = []
  const startedAtMs = performance.now()
  const sending: Promise<unknown>[] = []
  for (let i = 0; i < perSecond * seconds; i++) {
    const dueAtMs = startedAtMs + (1000 * i) / perSecond
    while (performance.now() < dueAtMs) await delay(1)
    sending.push(send().then(() => void ms.push(performance.now() - dueAtMs)))
  }
  await Promise.all(sending)
  return { seconds: (performance.now() - startedAtMs) / 1000, ms }
}
