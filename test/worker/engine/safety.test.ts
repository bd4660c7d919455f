/**
 * What becomes of unsafe pictures, with real networks: the tiny checkpoint draws, and copies of the
 * tiny safety checker are set to flag what a test wants flagged.
 */

import { join } from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { requestOf } from '../../../src/bench/cases.js'
import type { GenerationEvent } from '../../../src/engine/protocol.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import {
  type Engine,
  type GenerationResult,
  startEngine,
} from '../../../src/worker/engine/client.js'
import { createSafetyLines } from '../../../src/worker/logLines.js'
import { fixturePath } from '../../goldens.js'
import {
  always,
  breakDown,
  makeChecker,
  sayNormal,
  sayNsfw,
  separateSecond,
  type Threshold,
} from '../../safetyModel.js'
import { temporaryFolder } from '../../weightFiles.js'
import { foxPlan } from './foxPlan.js'

const plan: GenerationPlan = { ...foxPlan, steps: 2, count: 3, checkSafety: true }

let engine: Engine
afterEach(() => engine.stop())

function start(safety?: string) {
  const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
  engine = startEngine({ checkpoints, threads: 1, safety }, pino({ level: 'silent' }))
  return engine
}

/** A run's result or error, with its events and what they add to a prediction's log. */
async function generate(changes: Partial<GenerationPlan> = {}) {
  const events: GenerationEvent[] = []
  const lines: string[] = []
  const wanted = { ...plan, ...changes }
  const describeSafety = createSafetyLines(wanted)
  const onEvent = (event: GenerationEvent) => {
    events.push(event)
    const line = describeSafety(event)
    if (line !== undefined) lines.push(line)
  }
  const outcome = await engine
    .generate(requestOf(wanted), { onEvent })
    .catch((error: unknown) => error)
  return { outcome, events, lines, result: outcome as GenerationResult }
}

/** The plan's pictures as they are without a check. */
let unchecked: GenerationResult['images']
/** Flags picture 1 and no other. */
let flagsSecond: Threshold

beforeAll(async () => {
  start()
  unchecked = (await generate({ checkSafety: false })).result.images
  await engine.stop()
  flagsSecond = await separateSecond(
    unchecked.map(({ bytes }) => bytes),
    plan.size,
  )
})

const indexes = ({ images }: GenerationResult) => images.map(({ index }) => index)

describe('an unsafe picture', () => {
  test('is left out and the others keep their places and their pixels', async () => {
    start(makeChecker(flagsSecond, sayNsfw))
    const { result, events, lines } = await generate()
    expect(result.images).toEqual([unchecked[0], unchecked[2]])
    expect(indexes(result)).toEqual([0, 2])
    expect(lines).toEqual(['NSFW content detected in image 1', 'Total safe images: 2 out of 3'])
    expect(events.filter(({ kind }) => kind === 'flagged')).toMatchObject([{ image: 1 }])
    expect(result.timings.safety).toBeGreaterThan(0)
    expect(result.timings.safety).toBeLessThan(result.timings.total)
  })

  test('is kept when the second stage calls it normal', async () => {
    start(makeChecker(flagsSecond, sayNormal))
    const { result, lines } = await generate()
    expect(result.images).toEqual(unchecked)
    expect(lines).toEqual(['Total safe images: 3 out of 3'])
  })

  test('is left out when the second stage breaks down', async () => {
    start(makeChecker(flagsSecond, breakDown))
    const { result, lines } = await generate()
    expect(indexes(result)).toEqual([0, 2])
    expect(lines).toEqual([
      'Error running safety checker: Expected logits of the safety checker to be finite but got NaN',
      'NSFW content detected in image 1',
      'Total safe images: 2 out of 3',
    ])
  })

  test('is handed over where the check is disabled', async () => {
    start(makeChecker(always, sayNsfw))
    const { result, lines } = await generate({ checkSafety: false })
    expect(result.images).toEqual(unchecked)
    expect(lines).toEqual([])
  })
})

test('a prediction fails when all its pictures are unsafe, none of them leaves the engine, and it goes on', async () => {
  start(makeChecker(always, sayNsfw))
  const { outcome, events, lines } = await generate()
  expect(outcome).toMatchObject({
    code: 'unsafe_output',
    message:
      'All generated images contained NSFW content. Try running it again with a different prompt.',
  })
  expect(events.some(({ kind }) => kind === 'image')).toBe(false)
  expect(lines).toEqual([0, 1, 2].map((i) => `NSFW content detected in image ${i}`))
  expect((await generate({ checkSafety: false })).result.images).toEqual(unchecked)
})

test('an engine without a safety checker refuses a plan that wants one', async () => {
  start()
  expect((await generate()).outcome).toMatchObject({
    code: 'engine_failed',
    message: expect.stringMatching(/^Expected a safety checker, as the plan wants one/),
  })
})

test('a broken safety checker fails the setup and checked predictions, never silently', async () => {
  start(join(temporaryFolder(), 'nothing'))
  const fault = {
    code: 'checkpoint_invalid',
    message: expect.stringMatching(/nothing: expected the safety checker's folders/),
  }
  await expect(engine.load('dev')).rejects.toMatchObject(fault)
  expect((await generate()).outcome).toMatchObject(fault)
  expect((await generate({ checkSafety: false })).result.images).toEqual(unchecked)
})

test('a broken safety checker does not fail an unchecked prediction that loads its variant', async () => {
  start(join(temporaryFolder(), 'nothing'))
  expect((await generate({ checkSafety: false })).result.images).toEqual(unchecked)
})
