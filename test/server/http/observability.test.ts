/** What a running server tells its operator, and what it keeps to itself. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type LevelWithSilent, pino } from 'pino'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Environment, readConfig } from '../../../src/config/config.js'
import { buildApp } from '../../../src/server/app.js'
import { openServices } from '../../../src/server/context.js'
import { createFakeEngine, type FakeEngineOptions } from '../../fakeEngine.js'
import { startTestWorker } from '../../testWorker.js'

const model = '/v1/models/fluxd/flux/predictions'
const payload = { input: { prompt: 'a secret garden' } }

async function buildLoggedApp(
  environment: Environment = {},
  engineOptions: FakeEngineOptions = {},
  level: LevelWithSilent = 'info',
) {
  const dataDir = mkdtempSync(join(tmpdir(), 'fluxd-log-'))
  const config = readConfig({ FLUXD_DATA_DIR: dataDir, ...environment })
  const services = await openServices(config)
  const lines: string[] = []
  const logger = pino(
    { level },
    {
      write: (line) => {
        lines.push(line)
      },
    },
  )
  const engine = createFakeEngine(engineOptions)
  const app = buildApp({
    ...startTestWorker([engine], services, config),
    config,
    services,
    logger,
  })
  onTestFinished(async () => {
    await app.close()
    await services.close()
    rmSync(dataDir, { recursive: true })
  })
  const log = () => lines.map((line) => JSON.parse(line))
  return { app, services, log, text: () => lines.join('') }
}

type App = Awaited<ReturnType<typeof buildLoggedApp>>['app']

async function make(app: App, headers: Record<string, string> = {}) {
  const wait = { prefer: 'wait', ...headers }
  return (await app.inject({ method: 'POST', url: model, payload, headers: wait })).json()
}

describe('the log', () => {
  test('has a prediction’s id on its lines and nothing that its user wrote', async () => {
    const { app, log, text } = await buildLoggedApp()
    const { id } = await make(app)
    const own = log().filter(({ prediction }) => prediction === id)
    expect(own.map(({ msg }) => msg)).toEqual(['prediction started', 'prediction ended'])
    expect(own[1]).toMatchObject({ model: 'fluxd/flux', status: 'succeeded' })
    expect(text()).not.toContain('garden')
  })

  test('has prompts when it is looked into closely', async () => {
    const { app, text } = await buildLoggedApp({}, {}, 'debug')
    await make(app)
    expect(text()).toContain('a secret garden')
  })

  test('has a line for each reply, without keys or names of files', async () => {
    const { app, services, log, text } = await buildLoggedApp()
    const key = await services.keys.issue({
      name: 'k',
      scopes: ['predict'],
      priority: 0,
      ratePerMinute: 0,
    })
    const { output, urls } = await make(app, { authorization: `Bearer ${key}` })
    const { pathname } = new URL(output[0])
    await app.inject(pathname)
    await vi.waitFor(() => expect(log().filter(({ msg }) => msg === 'request')).toHaveLength(2))
    const [created, read] = log().filter(({ msg }) => msg === 'request')
    expect(created).toMatchObject({
      method: 'POST',
      route: '/v1/models/:owner/:name/predictions',
      status: 201,
      key: (await services.keys.list())[0]!.id,
    })
    expect(read).toMatchObject({ route: '/files/:id/:name', status: 200 })
    for (const secret of [key, pathname.split('/')[2]!, urls.stream.split('stream-')[1]])
      expect(text()).not.toContain(secret)
  })
})

describe('readiness', () => {
  test('comes with the model', async () => {
    let loaded = () => {}
    const loading = new Promise<void>((resolve) => {
      loaded = resolve
    })
    const { app } = await buildLoggedApp({}, { loading })
    const early = await app.inject('/readyz')
    expect([early.statusCode, early.json()]).toEqual([
      503,
      { status: 'not ready', reasons: ['setup has not finished'] },
    ])
    expect((await app.inject('/livez')).statusCode).toBe(200)
    loaded()
    await vi.waitFor(async () => expect((await app.inject('/readyz')).statusCode).toBe(200))
  })

  test('ends with the engine, a full queue and the shutting down', async () => {
    const stopped = await buildLoggedApp({}, { status: 'stopped' })
    expect((await stopped.app.inject('/readyz')).json().reasons).toContain('the engine is stopped')

    let open = () => {}
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    const { app } = await buildLoggedApp({ FLUXD_MAX_QUEUE: '1' }, { gate })
    await vi.waitFor(async () => expect((await app.inject('/readyz')).statusCode).toBe(200))
    await app.inject({ method: 'POST', url: model, payload })
    await vi.waitFor(async () => {
      await app.inject({ method: 'POST', url: model, payload })
      expect((await app.inject('/readyz')).json().reasons).toEqual(['the queue is full'])
    })
    const draining = app.predictions.drain()
    expect((await app.inject('/readyz')).json().reasons).toEqual(['the server is shutting down'])
    open()
    await draining
  })

  test('says that there is no room for what predictions make', async () => {
    const { app } = await buildLoggedApp({ FLUXD_FILES_BYTES: '1MiB' })
    const reason = 'Expected room for more files but the quota of 1048576 bytes is reached'
    const refused = await app.inject({ method: 'POST', url: model, payload })
    expect([refused.statusCode, refused.json().detail]).toEqual([507, reason])
    const reply = await app.inject('/readyz')
    expect([reply.statusCode, reply.json()]).toEqual([
      503,
      { status: 'not ready', reasons: [reason] },
    ])
  })
})

test('metrics count what was made and what waits', async () => {
  const { app } = await buildLoggedApp()
  await make(app)
  await make(app)
  const { body, headers } = await app.inject('/metrics')
  expect(headers['content-type']).toContain('text/plain')
  for (const line of [
    'fluxd_requests_total{model="fluxd/flux",outcome="succeeded"} 2',
    'fluxd_images_total 2',
    'fluxd_num_requests_waiting 0',
    'fluxd_generations_total{variant="dev",precision="bf16",mode="noise"} 2',
    'fluxd_stage_seconds_count{stage="denoise"} 2',
  ])
    expect(body.split('\n')).toContain(line)
})

test('an engine that dies is counted', async () => {
  const { FluxdError } = await import('../../../src/errors.js')
  const death = new FluxdError('engine_died', 'The engine process was killed')
  const { app } = await buildLoggedApp({}, { failures: [death] })
  expect((await make(app)).status).toBe('succeeded')
  expect((await app.inject('/metrics')).body).toContain('fluxd_worker_restarts_total 1')
})

test('spans go to the collector, inside the trace of the request', async () => {
  const bodies: string[] = []
  const collector = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    bodies.push(body)
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    collector.close()
  })
  const url = `http://127.0.0.1:${(collector.address() as AddressInfo).port}/v1/traces`
  const { app } = await buildLoggedApp({ FLUXD_OTLP_URL: url })
  const traceId = '0af7651916cd43dd8448eb211c80319c'
  await make(app, { traceparent: `00-${traceId}-b7ad6b7169203331-01` })
  await app.close()
  expect(bodies.join()).toContain(traceId)
  expect(bodies.join()).not.toContain('garden')
})

test('the documentation describes every route but those that no page can call', async () => {
  const { app } = await buildLoggedApp()
  const routes: string[] = []
  app.addHook('onRoute', ({ method, url }) => {
    for (const each of [method].flat()) routes.push(`${each} ${url.replace(/:(\w+)/g, '{$1}')}`)
  })
  expect((await app.inject('/docs/')).headers['content-type']).toContain('text/html')
  const { paths } = (await app.inject('/docs/json')).json<{ paths: Record<string, object> }>()
  const described = Object.entries(paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  )
  const notForPages = /^(HEAD|OPTIONS|QUERY) |^GET \/(docs|p\/)|trainings/
  const expected = routes.filter((route) => !notForPages.test(route))
  expect(described.sort()).toEqual(expected.sort())
})

test('the documentation holds parameters, bodies and replies', async () => {
  const { app } = await buildLoggedApp()
  const { paths } = (await app.inject('/docs/json')).json()
  const create = paths['/v1/models/{owner}/{name}/predictions'].post
  expect(create.parameters.map(({ name }: { name: string }) => name)).toEqual(['owner', 'name'])
  expect(create.requestBody.content['application/json'].schema.properties).toHaveProperty('webhook')
  expect(create.responses['201'].content['application/json'].schema.properties).toHaveProperty(
    'urls',
  )
  expect(create.security).toEqual([{ key: [] }])
  expect(paths['/livez'].get.security).toEqual([])
})

test('a browser may run the documentation, and nothing but what comes from here', async () => {
  const { app } = await buildLoggedApp()
  for (const url of ['/docs', '/docs/static/swagger-ui-bundle.js']) {
    const policy = String((await app.inject(url)).headers['content-security-policy'])
    expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'")
    expect(policy).toContain("connect-src 'self'")
  }
  const { headers } = await app.inject('/openapi.json')
  expect(headers['content-security-policy']).not.toContain('script-src')
})
