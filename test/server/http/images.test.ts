/** Predictions with `image` and `mask`: real small pictures, a real fetcher, a fake engine. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createMediaClient } from '../../../src/net/fetchMedia.js'
import { flat, toDataUri } from '../../engine/images/images.js'
import { buildTestApp } from './testApp.js'

const picture = async () => toDataUri(await flat(300, 200, 'navy').png().toBuffer())

/** The log without its progress lines. */
const linesOf = (logs: string) => logs.split('\n').filter((line) => line && !/%\|/.test(line))

describe('a prediction with an image', () => {
  test('is image to image, at the size of the image', async () => {
    const { predict, engine } = await buildTestApp()
    const image = await picture()
    const input = { prompt: 'a fox', image, seed: 3, num_inference_steps: 10, aspect_ratio: '16:9' }
    const { status, body } = await predict({ input: { ...input, disable_safety_checker: true } })
    expect(status).toBe(200)
    expect(body).toMatchObject({ status: 'succeeded', input: { image } })
    expect(engine.plans).toMatchObject([
      {
        size: { width: 304, height: 208 },
        start: { kind: 'image', image: { size: { width: 300, height: 200 } } },
        steps: 10,
        firstStep: 2,
      },
    ])
    expect(linesOf(body.logs)).toEqual([
      'Using seed: 3',
      'Prompt: a fox',
      'Input image size: 300x200',
      '[!] Resizing input image from 300x200 to 304x208',
      '[!] img2img mode',
    ])
    const progress = body.logs.match(/\d+\/8(?= \[)/g)
    expect([progress[0], progress.at(-1)]).toEqual(['0/8', '8/8'])
  })

  test('and a mask is inpainting', async () => {
    const { predict, engine } = await buildTestApp()
    const mask = toDataUri(await flat(30, 20, 'white').webp().toBuffer(), 'image/webp')
    const { body } = await predict({ input: { prompt: '', image: await picture(), mask } })
    expect(linesOf(body.logs).at(-1)).toBe('[!] inpaint mode')
    expect(engine.plans).toMatchObject([{ start: { kind: 'inpaint' } }])
  })

  test('may be percent-encoded, and of any case', async () => {
    const bytes = await flat(20, 20, 'navy').png().toBuffer()
    const escaped = Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
    const { predict, engine } = await buildTestApp()
    await predict({ input: { prompt: '', image: `DATA:image/png,${escaped}` } })
    expect(engine.plans).toMatchObject([{ size: { width: 32, height: 32 } }])
  })

  test('in fast mode stays fast', async () => {
    const { predict, engine } = await buildTestApp()
    await predict({ input: { prompt: '', image: await picture(), go_fast: true } })
    expect(engine.plans).toMatchObject([{ precision: 'fp8', start: { kind: 'image' } }])
  })
})

test('a mask without an image is ignored: it is not even fetched', async () => {
  const { predict } = await buildTestApp()
  const { body } = await predict({ input: { prompt: '', mask: 'http://127.0.0.1:1/mask.png' } })
  expect(body.status).toBe('succeeded')
  expect(body.logs).toContain('There is a mask but no image: the mask is ignored\n')
  expect(body.logs).toContain('[!] txt2img mode\n')
})

describe('a URL', () => {
  async function serve() {
    const bytes = await flat(40, 40, 'navy').jpeg().toBuffer()
    const server = createServer(({ url }, response) => {
      if (url === '/a.jpg') response.end(bytes)
      else response.writeHead(404).end()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.close()
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  const media = () => createMediaClient({ allowAddress: (address) => address === '127.0.0.1' })

  test('is fetched', async () => {
    const { predict, engine } = await buildTestApp({}, media())
    await predict({ input: { prompt: '', image: `${await serve()}/a.jpg` } })
    expect(engine.plans).toMatchObject([{ size: { width: 48, height: 48 } }])
  })

  test('that is not there fails the prediction', async () => {
    const origin = await serve()
    const { predict } = await buildTestApp({}, media())
    const { status, body } = await predict({ input: { prompt: '', image: `${origin}/b.jpg` } })
    expect(status).toBe(200)
    expect(body).toMatchObject({
      status: 'failed',
      error: `image: Expected a file at ${origin}/b.jpg but received status 404`,
      output: null,
    })
  })

  test('of this network fails the prediction, and nothing is connected to', async () => {
    const { predict, engine } = await buildTestApp()
    const { body } = await predict({ input: { prompt: '', image: `${await serve()}/a.jpg` } })
    expect(body).toMatchObject({
      status: 'failed',
      error: 'image: Expected the URL of a public server but 127.0.0.1 is not one',
    })
    expect(engine.plans).toEqual([])
  })
})

test.each([
  ['data:image/png;base64,AAAA', /^Expected image to be a picture that can be read: only jpeg/],
  ['data:image/png;base64', /^image: Expected a comma and data/],
  ['data:,<svg/>', /^Expected image to be a picture/],
])('%s fails the prediction with a sentence, and the server goes on', async (image, error) => {
  const { predict } = await buildTestApp()
  const { status, body } = await predict({ input: { prompt: '', image } })
  expect(status).toBe(200)
  expect(body).toMatchObject({ status: 'failed', error: expect.stringMatching(error) })
  expect((await predict({ input: { prompt: '' } })).body.status).toBe('succeeded')
})

test('a strength that leaves no step fails before anything is fetched', async () => {
  const { predict } = await buildTestApp()
  const { body } = await predict({
    input: { prompt: '', image: 'http://127.0.0.1:1/', prompt_strength: 0 },
  })
  expect(body.error).toMatch(
    /^After adjusting the num_inference_steps by strength parameter: 0\.0,/,
  )
})
