/** A server that is told to stop: what runs ends, what waits is made by the next server. */
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { serve } from '../../src/cli/serve.js'
import { readConfig } from '../../src/config/config.js'
import { temporaryData } from '../temporaryData.js'
import { create, follow, post } from './client.js'
import { startServer } from './serverProcess.js'

const silent = { FLUXD_LOG_LEVEL: 'silent', FLUXD_DEVICE: 'cpu' }

const wish = { prompt: 'a red circle', seed: 1, megapixels: '0.25', num_inference_steps: 40 }

test('what an engine that was killed left on the disk goes with the next start', async () => {
  const dataDir = temporaryData()
  const left = join(dataDir, 'scratch/server/fluxd-merged-abc')
  mkdirSync(left, { recursive: true })
  const server = await startServer(dataDir)
  onTestFinished(() => server.kill())
  expect(existsSync(left)).toBe(false)
})

test('a port that is taken is a sentence', async () => {
  const server = await startServer(temporaryData())
  onTestFinished(() => server.kill())
  const { port } = new URL(server.origin)
  const error = await serve(
    readConfig({ FLUXD_DATA_DIR: temporaryData(), FLUXD_PORT: port, ...silent }),
  )
    .then(() => undefined)
    .catch((thrown: Error) => thrown)
  expect(error?.message).toBe(
    `Expected port ${port} of 127.0.0.1 to be free but another program listens there; set FLUXD_PORT`,
  )
})

test('SIGTERM lets the running prediction end and keeps the waiting one for the next start', async () => {
  const dataDir = temporaryData()
  const server = await startServer(dataDir)
  onTestFinished(() => server.kill())
  const running = await create(() => server, wish, 'running')
  const waiting = await create(() => server, { ...wish, num_inference_steps: 2 }, 'waiting')
  const look = async (id: string) => {
    const reply = await fetch(`${server.origin}/v1/predictions/${id}`)
    return (await reply.json()) as { status: string; logs: string }
  }
  while (!(await look(running)).logs.includes('1/40')) await delay(20)

  const stopped = server.stop()
  await delay(100)
  // Those who wait may go on asking; nobody new is admitted.
  expect((await look(running)).status).toBe('processing')
  const refused = await post(server, wish, 'late')
  expect([refused.status, await refused.json()]).toMatchObject([503, { status: 503 }])
  await stopped

  const next = await startServer(dataDir)
  onTestFinished(() => next.kill())
  const reply = await fetch(`${next.origin}/v1/predictions/${running}`)
  expect(await reply.json()).toMatchObject({ status: 'succeeded' })
  expect(await follow(next, waiting)).toMatchObject({ outcome: 'succeeded' })
})
