/** A server with little memory: what can never fit is refused with the numbers, and the rest is made. */
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { startServer } from './server.js'

let engine: Engine
beforeAll(async () => {
  const { checkpoints, threads } = readConfig({})
  const memoryBytes = 300 * 2 ** 20
  engine = startEngine({ checkpoints, threads, memoryBytes }, pino({ level: 'silent' }))
  await engine.load('dev')
})
afterAll(() => engine.stop())

const square = (side: number) => ({
  input: {
    prompt: 'a red circle',
    aspect_ratio: 'custom',
    width: side,
    height: side,
    num_inference_steps: 1,
    seed: 1,
  },
})
const sentence =
  /^Expected a prediction that fits into 314.6 MB of memory but it needs 56\d\.\d MB: dev bf16 \d\.\d MB, dev VAE \d+\.\d kB, its run 56\d\.\d MB$/

test('on both surfaces, before anything is stored', async () => {
  const { create, request, services } = await startServer({ engine })
  const refused = await create(square(1440))
  expect([refused.status, refused.body.detail]).toEqual([422, expect.stringMatching(sentence)])
  const { status, body } = await request('/predictions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(square(1440)),
  })
  expect([status, body.detail]).toEqual([422, expect.stringMatching(sentence)])
  const { results } = (await request('/v1/predictions')).body
  expect(results).toEqual([])
  expect(services).toBeDefined()
})

test('and what fits is made', async () => {
  const { create } = await startServer({ engine })
  const { body } = await create(square(256), { prefer: 'wait' })
  expect([body.status, body.error]).toEqual(['succeeded', null])
})
