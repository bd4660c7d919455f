import { expect, test } from 'vitest'
import type { EngineStatus } from '../../src/engine/engine.js'
import { FluxdError } from '../../src/errors.js'
import type { FakeEngineOptions } from '../fakeEngine.js'
import { buildTestApp } from './testApp.js'

async function checkHealth(options: FakeEngineOptions) {
  const { app, predict } = buildTestApp(options)
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
      logs: '',
    },
  })
})

test('a server whose model cannot be loaded says why and still takes predictions', async () => {
  const loadFailure = new FluxdError('checkpoint_invalid', 'Expected a folder at /nowhere')
  const { reply, predict } = await checkHealth({ loadFailure })
  expect(reply.statusCode).toBe(200)
  expect(reply.json()).toMatchObject({
    status: 'SETUP_FAILED',
    setup: { status: 'failed', logs: 'Expected a folder at /nowhere\n' },
  })
  const { body } = await predict({ input: { prompt: '', model: 'schnell' } })
  expect(body.status).toBe('succeeded')
})

test('a server whose model is loading is STARTING', async () => {
  const { reply } = await checkHealth({ loading: new Promise(() => {}) })
  expect(reply.json()).toEqual({
    status: 'STARTING',
    setup: { started_at: expect.any(String), status: 'starting', logs: '' },
  })
})
