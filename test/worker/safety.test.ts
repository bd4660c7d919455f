/** What a user sees of the safety checker: a real engine and a real store under the whole service. */
import { pino } from 'pino'
import { afterEach, expect, test } from 'vitest'
import { startEngine } from '../../src/worker/engine/client.js'
import { fixturePath } from '../goldens.js'
import {
  always,
  breakDown,
  makeChecker,
  sayNsfw,
  separateSecond,
  type Threshold,
} from '../safetyModel.js'
import {
  openPredictions,
  request,
  type TestPredictions,
} from '../server/predictions/testPredictions.js'

const size = { width: 256, height: 256 }
const noChecker = 'No safety checker is installed: the output is not checked'

let close: () => Promise<void>
afterEach(() => close())

type Service = TestPredictions & { readonly readPictures: () => Promise<Uint8Array[]> }

/** A service over a new store; `safety` is the safety checker's folder, if one is installed. */
async function start(safety?: string): Promise<Service> {
  const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
  const engine = startEngine({ checkpoints, threads: 1, safety }, pino({ level: 'silent' }))
  const service = await openPredictions({ engines: [engine], safetyChecker: safety !== undefined })
  close = async () => {
    await service.predictions.stop()
    await engine.stop()
    service.kill()
  }
  async function readPictures(): Promise<Uint8Array[]> {
    const listed = await service.files.list('output', { limit: 9 })
    const byName = listed
      .map(({ file }) => file)
      .sort((one, other) => one.name.localeCompare(other.name))
    return Promise.all(byName.map(({ id }) => service.files.read(id)))
  }
  return { ...service, readPictures }
}

/** Three pictures by `predictions`: the settled prediction without the lines that others test. */
async function predict({ predictions }: Service, changes: object = {}) {
  const sent = {
    prompt: 'a red fox',
    aspect_ratio: 'custom',
    ...size,
    num_outputs: 3,
    num_inference_steps: 2,
    seed: 7,
    output_format: 'png',
    ...changes,
  }
  const { id } = await predictions.create(request({}, sent))
  const { status, output, error, logs } = await predictions.waitUntilTerminal(id)
  const lines = logs.split('\n').filter((line) => /safe|NSFW/i.test(line))
  return { status, names: output?.map(({ name }) => name), error, lines }
}

let threshold: Threshold | undefined

/** Of a checker that flags the second of three images and no other. */
async function flagsSecond(): Promise<Threshold> {
  if (threshold) return threshold
  const service = await start()
  await predict(service)
  const pictures = await service.readPictures()
  await close()
  threshold = await separateSecond(pictures, size)
  return threshold
}

test('an unsafe picture is missing from the output, and the others keep their names', async () => {
  expect(await predict(await start(makeChecker(await flagsSecond(), sayNsfw)))).toEqual({
    status: 'succeeded',
    names: ['out-0.png', 'out-2.png'],
    error: undefined,
    lines: ['NSFW content detected in image 1', 'Total safe images: 2 out of 3'],
  })
})

test('a second stage that breaks down is in the log', async () => {
  const { names, lines } = await predict(await start(makeChecker(await flagsSecond(), breakDown)))
  expect(names).toEqual(['out-0.png', 'out-2.png'])
  expect(lines[0]).toMatch(/^Error running safety checker: Expected logits .* to be finite/)
  expect(lines.slice(1)).toEqual([
    'NSFW content detected in image 1',
    'Total safe images: 2 out of 3',
  ])
})

test('a prediction without a safe picture fails, and passes when the user disables the check', async () => {
  const service = await start(makeChecker(always, sayNsfw))
  expect(await predict(service)).toMatchObject({
    status: 'failed',
    error:
      'All generated images contained NSFW content. Try running it again with a different prompt.',
    lines: [0, 1, 2].map((index) => `NSFW content detected in image ${index}`),
  })
  expect(await predict(service, { disable_safety_checker: true })).toMatchObject({
    status: 'succeeded',
    names: ['out-0.png', 'out-1.png', 'out-2.png'],
    lines: [],
  })
})

test('where none is installed, the log says that nothing was checked', async () => {
  const service = await start()
  expect((await predict(service)).lines).toEqual([noChecker])
  expect((await predict(service, { disable_safety_checker: true })).lines).toEqual([])
})
