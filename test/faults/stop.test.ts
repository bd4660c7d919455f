/** A server that is told to stop: what runs ends, what waits is made by the next server. */
import { setTimeout as delay } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { temporaryData } from '../temporaryData.js'
import { create, follow, post } from './client.js'
import { startServer } from './serverProcess.js'

const wish = { prompt: 'a red circle', seed: 1, megapixels: '0.25', num_inference_steps: 40 }

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
