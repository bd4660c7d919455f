/** The official client and a server that really makes pictures: the embedded model, small and in few steps. */
import { pino } from 'pino'
import type { FileOutput } from 'replicate'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { startServer } from './server.js'

const environment = { FLUXD_OUTPUT_MODE: 'data' }
const small = { aspect_ratio: 'custom', width: 256, height: 256, num_inference_steps: 2, seed: 7 }
const input = { prompt: 'a red circle on a blue background', ...small }

let engine: Engine
beforeAll(async () => {
  const { checkpoints, threads } = readConfig({})
  engine = startEngine({ checkpoints, threads }, pino({ level: 'silent' }))
  await engine.load('dev')
})
afterAll(() => engine.stop())

const start = () => startServer({ engine, environment })

const readAll = async (output: unknown) =>
  Buffer.from(await (await (output as FileOutput[])[0]!.blob()).arrayBuffer())

test('run makes a picture of the size and format asked for, again the same from the same seed', async () => {
  const { replicate } = await start()
  const run = async () => readAll(await replicate.run('fluxd/flux', { input }))
  const [first, second] = [await run(), await run()]
  expect(await sharp(first).metadata()).toMatchObject({ format: 'webp', width: 256, height: 256 })
  expect(second).toEqual(first)
})

test('both surfaces make the same picture', async () => {
  const { replicate, request } = await start()
  const picture = await readAll(await replicate.run('fluxd/flux', { input }))
  const { body } = await request('/predictions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input }),
  })
  expect(body.output).toEqual([`data:image/webp;base64,${picture.toString('base64')}`])
})

test('a fine-tune of the catalog makes another picture than the plain model', async () => {
  const { replicate } = await start()
  const own = await readAll(await replicate.run('fofr/shxdo-v2', { input }))
  const plain = await readAll(await replicate.run('fluxd/flux', { input }))
  expect(own).not.toEqual(plain)
})

test('an uploaded picture decides the size', async () => {
  const { replicate } = await start()
  const image = await sharp({ create: { width: 300, height: 200, channels: 3, background: 'red' } })
    .jpeg()
    .toBuffer()
  const output = await replicate.run('fluxd/flux', {
    input: { ...input, image, prompt_strength: 0.9 },
  })
  expect(await sharp(await readAll(output)).metadata()).toMatchObject({ width: 304, height: 208 })
})

test('previews come to those who ask for them, and to nobody else', async () => {
  const { replicate } = await start()
  // An engine that stands still makes no step before both are watching.
  process.kill(engine.pid()!, 'SIGSTOP')
  const { urls } = await replicate.predictions.create({
    model: 'fluxd/flux',
    input: { ...input, width: 512, height: 512, num_inference_steps: 16 },
  })
  const replies = await Promise.all([fetch(urls.stream!), fetch(`${urls.stream}?preview=1`)])
  process.kill(engine.pid()!, 'SIGCONT')
  const [plain, asked] = await Promise.all(replies.map((reply) => reply.text()))
  expect(plain).not.toContain('event: preview')
  const previews = [...asked!.matchAll(/^event: preview\ndata: (.*)$/gm)].map(([, data]) =>
    JSON.parse(data!),
  )
  expect(previews.length).toBeGreaterThan(0)
  for (const { index, step, steps, uri } of previews) {
    expect([index, steps]).toEqual([0, 16])
    expect(step).toBeLessThan(16)
    const picture = await sharp(Buffer.from(uri.split(',')[1], 'base64')).metadata()
    expect(picture).toMatchObject({ format: 'webp', width: 256, height: 256 })
  }
  const withoutPreviews = (text: string) =>
    text.split('\n\n').filter((part) => part.startsWith('id: '))
  expect(withoutPreviews(asked!)).toEqual(withoutPreviews(plain!))
})
