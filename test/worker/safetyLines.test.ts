/** What a user sees of the safety checker: a real engine and a real store under the whole service. */
import { join } from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import { createFiles } from '../../src/files/files.js'
import { createPredictions, type Predictions } from '../../src/server/predictions/service.js'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { createFileStore } from '../../src/store/sqlite/files.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { fixturePath } from '../goldens.js'
import {
  always,
  breakDown,
  makeChecker,
  sayNsfw,
  separateSecond,
  type Threshold,
} from '../safetyModel.js'
import { temporaryFolder } from '../weightFiles.js'

const size = { width: 256, height: 256 }
const noChecker = 'No safety checker is installed: the output is not checked'

let close: () => Promise<void>
afterEach(() => close())

/** A service over a new store; `safety` is the safety checker's folder, if one is installed. */
function start(safety?: string): Predictions & { readPictures: () => Promise<Uint8Array[]> } {
  const folder = temporaryFolder()
  const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
  const engine: Engine = startEngine({ checkpoints, threads: 1, safety }, pino({ level: 'silent' }))
  const database = openDatabase(join(folder, 'fluxd.db'))
  const store = createFileStore(database)
  const files = createFiles({ folder: join(folder, 'files'), store, quota: 2 ** 30 })
  const unused = () => Promise.reject(new Error('Nothing is fetched here'))
  const predictions = createPredictions({
    engine,
    library: { acquire: unused, open: unused },
    media: { fetch: unused },
    files,
    database,
    settings: {
      noise: 'torch-cpu',
      goFastLoraMultiplier: 1.5,
      safetyChecker: safety !== undefined,
    },
    maxQueue: 4,
    drainMs: 1000,
    onFault: () => {},
  })
  close = async () => {
    await predictions.stop()
    await engine.stop()
    database.close()
  }
  const readPictures = () => {
    const byName = files
      .list('output', { limit: 9 })
      .map(({ file }) => file)
      .sort((a, b) => a.name.localeCompare(b.name))
    return Promise.all(byName.map(({ id }) => files.read(id)))
  }
  return { ...predictions, readPictures }
}

/** Three pictures by `predictions`: the settled prediction without the lines that others test. */
async function predict(predictions: Predictions, changes: object = {}) {
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
  const { id } = await predictions.create({
    surface: 'cog',
    model: 'dev',
    version: 'test',
    sent,
    wish: FluxInput.parse(sent),
  })
  const { status, output, error, logs } = await predictions.waitUntilTerminal(id)
  const lines = logs.split('\n').filter((line) => /safe|NSFW/i.test(line))
  return { status, names: output?.map(({ name }) => name), error, lines }
}

let flagsSecond: Threshold
beforeAll(async () => {
  const predictions = start()
  await predict(predictions)
  const pictures = await predictions.readPictures()
  await close()
  flagsSecond = await separateSecond(pictures, size)
})

test('an unsafe picture is missing from the output, and the others keep their names', async () => {
  expect(await predict(start(makeChecker(flagsSecond, sayNsfw)))).toEqual({
    status: 'succeeded',
    names: ['out-0.png', 'out-2.png'],
    error: undefined,
    lines: ['NSFW content detected in image 1', 'Total safe images: 2 out of 3'],
  })
})

test('a second stage that breaks down is in the log', async () => {
  const { names, lines } = await predict(start(makeChecker(flagsSecond, breakDown)))
  expect(names).toEqual(['out-0.png', 'out-2.png'])
  expect(lines[0]).toMatch(/^Error running safety checker: Expected logits .* to be finite/)
  expect(lines.slice(1)).toEqual([
    'NSFW content detected in image 1',
    'Total safe images: 2 out of 3',
  ])
})

test('a prediction without a safe picture fails, and passes when the user disables the check', async () => {
  const predictions = start(makeChecker(always, sayNsfw))
  expect(await predict(predictions)).toMatchObject({
    status: 'failed',
    error:
      'All generated images contained NSFW content. Try running it again with a different prompt.',
    lines: [0, 1, 2].map((index) => `NSFW content detected in image ${index}`),
  })
  expect(await predict(predictions, { disable_safety_checker: true })).toMatchObject({
    status: 'succeeded',
    names: ['out-0.png', 'out-1.png', 'out-2.png'],
    lines: [],
  })
})

test('where none is installed, the log says that nothing was checked', async () => {
  const predictions = start()
  expect((await predict(predictions)).lines).toEqual([noChecker])
  expect((await predict(predictions, { disable_safety_checker: true })).lines).toEqual([])
})
