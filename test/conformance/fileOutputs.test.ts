/** The documented code of Replicate's clients against a server with default settings, over http. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Replicate, { type FileOutput, type Prediction } from 'replicate'
import sharp from 'sharp'
import { describe, expect, onTestFinished, test } from 'vitest'
import { startServer } from './server.js'

const model = 'fluxd/flux'
const input = { prompt: 'a lighthouse', num_inference_steps: 1 }
const dataUri = /^data:image\/webp;base64,/

describe('run', () => {
  test.each([{ wait: { mode: 'block' } }, { wait: { mode: 'poll', interval: 20 } }] as const)(
    'gives file objects with $wait.mode',
    async (options) => {
      const { replicate } = await startServer()
      const [output] = (await replicate.run(model, { input, ...options })) as FileOutput[]
      expect(output!.url().href).toMatch(dataUri)
      const image = Buffer.from(await (await output!.blob()).arrayBuffer())
      expect((await sharp(image).metadata()).format).toBe('webp')
    },
  )

  test('gives what writeFile writes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fluxd-outputs-'))
    onTestFinished(() => rm(folder, { recursive: true }))
    const { replicate } = await startServer()
    const [output] = (await replicate.run(model, { input })) as FileOutput[]
    const file = join(folder, 'output_0.webp')
    await writeFile(file, output!)
    expect((await sharp(file).metadata()).format).toBe('webp')
  })
})

test('create, get and cancel give data URIs; a list and its pages stay short', async () => {
  const { replicate } = await startServer()
  const created = await replicate.predictions.create({ model, input, wait: true })
  const { output } = await replicate.predictions.get(created.id)
  expect(created.output).toEqual([expect.stringMatching(dataUri)])
  expect(output).toEqual(created.output)
  expect((await replicate.predictions.cancel(created.id)).output).toEqual(output)
  const { results } = (await replicate.predictions.list()) as { results: Prediction[] }
  expect(results[0]!.output).toEqual([expect.stringMatching(/^http:/)])
})

test.each([
  ['replicate-javascript/1.4.0', dataUri],
  ['replicate-python/1.0.7', dataUri],
  ['Replicate/Python 2.0.0b4', dataUri],
  ['AsyncReplicate/Python 2.0.0b4', dataUri],
  ['Replicate/JS 0.9.0', dataUri],
  ['replicate/go', /^http:/],
  ['curl/8.5.0', /^http:/],
])('%s is sent what it makes a file of', async (agent, expected) => {
  const { create } = await startServer()
  const { body } = await create({ input }, { prefer: 'wait', 'user-agent': agent })
  expect(body.output).toEqual([expect.stringMatching(expected)])
})

test('behind https, and where a client or the operator asks for URLs, they are URLs', async () => {
  const agent = { prefer: 'wait', 'user-agent': 'replicate-javascript/1.4.0' }
  const https = await startServer({ environment: { FLUXD_PUBLIC_URL: 'https://images.example' } })
  const url = await startServer({ environment: { FLUXD_OUTPUT_MODE: 'url' } })
  const asked = await startServer()
  const replies = [
    await https.create({ input }, agent),
    await url.create({ input }, agent),
    await asked.create({ input }, { ...agent, prefer: 'wait, output=url' }),
  ]
  for (const { body } of replies) expect(body.output[0]).toMatch(/^https?:/)
})

test('a client with a name of its own asks with Prefer', async () => {
  const { url, request } = await startServer()
  const replicate = new Replicate({ auth: 'any', baseUrl: `${url}/v1`, userAgent: 'my-app/1' })
  const { id } = await replicate.predictions.create({ model, input, wait: true })
  const { body } = await request(`/v1/predictions/${id}`, { headers: { prefer: 'output=data' } })
  expect(body.output).toEqual([expect.stringMatching(dataUri)])
})
