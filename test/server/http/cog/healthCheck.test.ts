import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { expect, test, vi } from 'vitest'
import { readConfig } from '../../../../src/config/config.js'
import { HealthCheck } from '../../../../src/contract/health.js'
import { FluxdError } from '../../../../src/errors.js'
import { buildApp } from '../../../../src/server/app.js'
import type { EngineStatus } from '../../../../src/worker/engine/client.js'
import { createFakeEngine, type FakeEngineOptions } from '../../../fakeEngine.js'
import { temporaryData } from '../../../temporaryData.js'
import { startTestWorker } from '../../../testWorker.js'
import { buildTestApp } from '../testApp.js'

const noChecker = 'No safety checker is installed: no output is checked\n'

async function checkHealth(options: FakeEngineOptions) {
  const { app, predict } = await buildTestApp(options)
  await app.ready()
  return { reply: await app.inject('/health-check'), predict }
}

test.each([
  ['ready', 'READY'],
  ['busy', 'BUSY'],
  ['restarting', 'STARTING'],
  ['stopped', 'DEFUNCT'],
] as const)('an engine that is %s is %s', async (status: EngineStatus, health) => {
  const { reply } = await checkHealth({ status })
  expect(reply.statusCode).toBe(200)
  expect(reply.json()).toEqual({
    status: health,
    setup: {
      started_at: expect.any(String),
      completed_at: expect.any(String),
      status: 'succeeded',
      logs: noChecker,
    },
    safety_checker: 'none',
  })
})

test('a server whose model cannot be loaded says why and still takes predictions', async () => {
  const loadFailure = new FluxdError('checkpoint_invalid', 'Expected a folder at /nowhere')
  const { reply, predict } = await checkHealth({ loadFailure })
  expect(reply.statusCode).toBe(200)
  expect(reply.json()).toMatchObject({
    status: 'SETUP_FAILED',
    setup: { status: 'failed', logs: `${noChecker}Expected a folder at /nowhere\n` },
  })
  const { body } = await predict({ input: { prompt: '', model: 'schnell' } })
  expect(body.status).toBe('succeeded')
})

test('a server whose model is loading is STARTING', async () => {
  const { reply } = await checkHealth({ loading: new Promise(() => {}) })
  expect(reply.json()).toEqual({
    status: 'STARTING',
    setup: { started_at: expect.any(String), status: 'starting', logs: noChecker },
    safety_checker: 'none',
  })
})

test('a server with a safety checker says so', async () => {
  const { app } = await buildTestApp({}, undefined, { FLUXD_SAFETY_MODEL: '/models/safety' })
  const reply = await app.inject('/health-check')
  expect(reply.json()).toMatchObject({ setup: { logs: '' }, safety_checker: 'installed' })
  expect(HealthCheck.safeParse(reply.json()).success).toBe(true)
})

test.each([
  ['without a safety checker logs it once', {}, 1],
  ['with one does not', { FLUXD_SAFETY_MODEL: '/models/safety' }, 0],
])('a server %s at its start', async (_, environment, count) => {
  const lines: string[] = []
  const { services } = await buildTestApp()
  const config = readConfig(environment)
  const app = buildApp({
    ...startTestWorker([createFakeEngine()], services, config),
    config,
    services,
    logger: pino(
      {},
      {
        write: (line) => {
          lines.push(line)
        },
      },
    ),
  })
  await app.ready()
  await app.close()
  expect(lines.filter((line) => line.includes(noChecker.trim()))).toHaveLength(count)
})

test.each([
  ['is touched when the model is loaded', {}, true],
  ['is not there before', { loading: new Promise<void>(() => {}) }, false],
  ['is not there when it cannot be loaded', { loadFailure: new Error('no model') }, false],
])('the file that Kubernetes looks for %s', async (_, engine, isThere) => {
  const readyFile = join(temporaryData(), 'cog/ready')
  const { services } = await buildTestApp()
  const config = { ...readConfig({}), readyFile }
  const app = buildApp({
    ...startTestWorker([createFakeEngine(engine)], services, config),
    config,
    services,
  })
  await app.ready()
  if (isThere) await vi.waitFor(() => expect(readFileSync(readyFile, 'utf8')).toBe(''))
  await app.close()
  expect(existsSync(readyFile)).toBe(isThere)
})
