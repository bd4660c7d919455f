/** Inputs whose image is a long data URI: a file behind the scenes, and the URI that was sent to everybody. */
import { randomBytes } from 'node:crypto'
import sharp from 'sharp'
import { describe, expect, test, vi } from 'vitest'
import { startRetention } from '../../../src/server/predictions/retention.js'
import { buildTestApp, type TestApp } from './testApp.js'

/** A picture that compresses badly: more than 64 kB. */
const noisyPicture = () =>
  sharp(randomBytes(256 * 128 * 3), { raw: { width: 256, height: 128, channels: 3 } })
    .png()
    .toBuffer()

const toUri = (bytes: Buffer, head = 'data:image/png;base64,') =>
  `${head}${bytes.toString('base64')}`

async function inputFilesOf({ services: { store } }: TestApp) {
  const files = await store.files.list('input', { limit: 100 })
  return files
    .map(({ file: { name, size } }) => ({ name, size }))
    .sort((a, b) => a.name.localeCompare(b.name))
}

const post = async ({ app }: TestApp, url: string, payload: object, headers = {}) =>
  app.inject({ method: 'POST', url, payload, headers })

const named = '/v1/models/fluxd/flux/predictions'
const async = { prefer: 'respond-async' }

describe('a long data URI', () => {
  test('is echoed as it was sent, wherever an input is shown, and made from', async () => {
    const test = await buildTestApp()
    const bytes = await noisyPicture()
    const input = {
      // Whatever else is in the input stays where and as it was.
      mask: toUri(bytes, 'data:image/png;name="ü";base64,'),
      prompt: `${'long "ü" '.repeat(1000)}`,
      image: toUri(bytes),
      unknown: { image: 'x' },
      num_inference_steps: 4,
    }
    const created = await post(test, named, { input }, { prefer: 'wait' })
    expect(created.statusCode).toBe(201)
    expect(created.headers['content-type']).toBe('application/json; charset=utf-8')
    const body = created.json()
    expect(body).toMatchObject({ status: 'succeeded', error: null })
    expect(JSON.stringify(body.input)).toBe(JSON.stringify(input))
    expect(Object.keys(body).indexOf('input')).toBe(3)
    const got = await test.app.inject(`/v1/predictions/${body.id}`)
    expect(got.json()).toEqual(body)
    const canceled = await post(test, `/v1/predictions/${body.id}/cancel`, {})
    expect(canceled.json()).toEqual(body)
    expect(test.engine.plans).toMatchObject([
      { size: { width: 256, height: 128 }, start: { kind: 'inpaint' } },
    ])
    expect(await inputFilesOf(test)).toEqual([
      { name: 'image', size: bytes.length },
      { name: 'mask', size: bytes.length },
    ])
  })

  test('is echoed on the surface of Cog: at the end, before it, by PUT, and in the last event', async () => {
    const test = await buildTestApp()
    const input = { prompt: '', image: toUri(await noisyPicture()) }
    const sync = await post(test, '/predictions', { input })
    expect(sync.json()).toMatchObject({ status: 'succeeded', input })
    const put = async () =>
      (
        await test.app.inject({
          method: 'PUT',
          url: '/predictions/mine',
          payload: { input },
          headers: async,
        })
      ).json()
    expect((await put()).input).toEqual(input)
    expect((await put()).input).toEqual(input)
    const stream = await post(test, '/predictions', { input }, { accept: 'text/event-stream' })
    const last = stream.body.split('\n').findLast((line) => line.startsWith('data: '))!
    expect(JSON.parse(last.slice(6))).toMatchObject({ status: 'succeeded', input })
  })

  test('is cut short in lists, which do not read it', async () => {
    const test = await buildTestApp()
    const input = { prompt: '', image: toUri(await noisyPicture()) }
    await post(test, named, { input })
    const { results } = (await test.app.inject('/v1/predictions')).json()
    expect(results[0].input).toEqual({ prompt: '', image: 'data:image/png;base64,…' })
  })

  test('that is written in another way than it would be again stays as it is', async () => {
    const test = await buildTestApp()
    const canonical = toUri(await noisyPicture())
    const percent = canonical.replace(/\+/g, '%2B')
    const broken = `${canonical.slice(0, 1000)}\n${canonical.slice(1000)}`
    for (const image of [percent, broken]) {
      const { body } = await test.predict({ input: { prompt: '', image } })
      expect(body).toMatchObject({ status: 'succeeded', input: { image } })
    }
    expect(await inputFilesOf(test)).toEqual([])
  })
})

describe('the files of an input', () => {
  test('go with the data of their prediction', async () => {
    const test = await buildTestApp()
    const { id } = (
      await post(
        test,
        named,
        { input: { prompt: '', image: toUri(await noisyPicture()) } },
        {
          prefer: 'wait',
        },
      )
    ).json()
    const { store, files } = test.services
    const onFault = () => {}
    startRetention({ store: store.predictions, files, retentionMs: 1, onFault })()
    await vi.waitFor(async () => expect(await inputFilesOf(test)).toEqual([]))
    const cleared = (await test.app.inject(`/v1/predictions/${id}`)).json()
    expect(cleared).toMatchObject({ data_removed: true, input: {}, output: null })
  })

  test('are not left behind by a request that is in conflict or known already', async () => {
    const test = await buildTestApp({ gate: new Promise(() => {}) })
    const image = toUri(await noisyPicture())
    const create = (body: object, headers = {}) =>
      post(
        test,
        '/predictions',
        { input: { prompt: '', image }, ...body },
        { ...async, ...headers },
      )
    const key = { 'idempotency-key': 'k' }
    expect((await create({ id: 'mine' })).statusCode).toBe(202)
    // At once, so that all of them have written their files before one is admitted.
    const replies = await Promise.all([create({ id: 'mine' }), create({}, key), create({}, key)])
    expect(replies.map(({ statusCode }) => statusCode)).toEqual([409, 202, 202])
    expect(await inputFilesOf(test)).toHaveLength(2)
    await test.services.files.removeStrays()
    expect(await inputFilesOf(test)).toHaveLength(2)
  })

  test('without a prediction are removed at the next start', async () => {
    const test = await buildTestApp()
    const { files } = test.services
    await files.add({
      kind: 'input',
      name: 'image',
      contentType: 'image/png',
      predictionId: 'never',
      bytes: Buffer.from('x'),
    })
    await files.removeStrays()
    expect(await inputFilesOf(test)).toEqual([])
  })

  test('count for the quota, and a full one refuses them', async () => {
    const test = await buildTestApp({}, undefined, { FLUXD_FILES_BYTES: '17MiB' })
    // The first fits, both do not.
    const uri = toUri(randomBytes(9_000_000))
    const input = { prompt: '', image: uri, mask: uri }
    const reply = await post(test, named, { input })
    expect(reply.json().detail).toMatch(/Expected room for more files but the quota of/)
    expect(await inputFilesOf(test)).toEqual([])
  })
})
