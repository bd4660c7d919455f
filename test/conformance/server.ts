/** A server that listens, over real services in a folder of its own, and the official client for it. */
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Replicate from 'replicate'
import { onTestFinished } from 'vitest'
import { type Environment, readConfig } from '../../src/config/config.js'
import { buildApp } from '../../src/server/app.js'
import { openServices, type Services } from '../../src/server/context.js'
import type { Engine } from '../../src/worker/engine/client.js'
import { createFakeEngine, type FakeEngine } from '../fakeEngine.js'
import { startTestWorker } from '../testWorker.js'

export type TestServer<E extends Engine = FakeEngine> = {
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  readonly replicate: Replicate
  readonly engine: E
  readonly services: Services
  /** Creates a prediction of the plain model with a POST to /v1. */
  readonly create: (body: unknown, headers?: Record<string, string>) => Promise<Answer>
  /** A request to the server; what it answers as JSON, if it does. */
  readonly request: (path: string, options?: RequestInit) => Promise<Answer>
  /** Before the end of the test. */
  readonly close: () => Promise<void>
}

export type Answer = {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  // biome-ignore lint/suspicious/noExplicitAny: a body is what the test says it is
  readonly body: any
}

export type ServerOptions<E extends Engine> = {
  readonly engine?: E
  /** `FLUXD_*` other than the defaults. */
  readonly environment?: Environment
}

/** All ends with the test, but for an engine that was given. */
export async function startServer<E extends Engine = FakeEngine>({
  engine = createFakeEngine() as unknown as E,
  environment = {},
}: ServerOptions<E> = {}): Promise<TestServer<E>> {
  const dataDir = await mkdtemp(join(tmpdir(), 'fluxd-conformance-'))
  const config = readConfig({ FLUXD_DATA_DIR: dataDir, FLUXD_NOISE: 'torch-cpu', ...environment })
  const services = await openServices(config)
  const { worker, metrics } = startTestWorker([engine], services, config)
  const app = buildApp({ config, worker, metrics, services })
  await app.listen({ port: 0, host: '127.0.0.1' })
  let closing: Promise<void> | undefined
  const close = () => {
    closing ??= closeAll()
    return closing
  }
  async function closeAll() {
    await app.close()
    await services.close()
    await rm(dataDir, { recursive: true })
  }
  onTestFinished(close)
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  const replicate = new Replicate({ auth: 'r8_secret', baseUrl: `${url}/v1` })
  const request = (path: string, options?: RequestInit) => ask(url + path, options)
  const create = (body: unknown, headers = {}) =>
    request('/v1/models/fluxd/flux/predictions', postJson(body, headers))
  return { url, replicate, engine, services, request, create, close }
}

async function ask(url: string, options?: RequestInit): Promise<Answer> {
  const reply = await fetch(url, options)
  const text = await reply.text()
  const isJson = reply.headers.get('content-type')?.includes('json') && text !== ''
  return {
    status: reply.status,
    headers: reply.headers,
    text,
    body: isJson ? JSON.parse(text) : undefined,
  }
}

export const postJson = (body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body: JSON.stringify(body),
})
