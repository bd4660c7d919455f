/** The engine with real processes and real networks: the tiny random-weight checkpoints. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import sharp from 'sharp'
import { afterEach, expect, test } from 'vitest'
import { requestOf } from '../../../src/bench/cases.js'
import type { GenerationEvent } from '../../../src/engine/protocol.js'
import { type Engine, startEngine } from '../../../src/worker/engine/client.js'
import { fixturePath } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { foxPlan as plan } from './foxPlan.js'

let engine: Engine
afterEach(() => engine.stop())

function start(checkpoints = {}) {
  engine = startEngine(
    {
      checkpoints: {
        dev: fixturePath('tiny-dev'),
        schnell: fixturePath('tiny-schnell'),
        ...checkpoints,
      },
      threads: 1,
    },
    pino({ level: 'silent' }),
  )
  return engine
}

const isProgress = (event: GenerationEvent) => event.kind === 'progress'

test('a plan becomes encoded pictures, with an event for every step', async () => {
  const events: GenerationEvent[] = []
  const { images, timings } = await start().generate(requestOf({ ...plan, count: 2 }), {
    onEvent: (event) => events.push(event),
  })
  expect(images.map(({ mimeType }) => mimeType)).toEqual(['image/png', 'image/png'])
  for (const { bytes } of images)
    expect(await sharp(bytes).metadata()).toMatchObject({ format: 'png', width: 96, height: 64 })
  const steps = events.filter(isProgress).map((event) => [event.image, event.step, event.steps])
  expect(steps).toEqual([
    ...[1, 2, 3, 4].map((step) => [0, step, 4]),
    ...[1, 2, 3, 4].map((step) => [1, step, 4]),
  ])
  expect(timings.ort).toBeGreaterThan(0)
  expect(timings.ort).toBeLessThan(timings.total)
})

test('picture i of a prediction is the picture of seed + i', async () => {
  start()
  const both = await engine.generate(requestOf({ ...plan, count: 2 }))
  const second = await engine.generate(requestOf({ ...plan, seed: plan.seed + 1 }))
  expect(both.images[1]!.bytes).toEqual(second.images[0]!.bytes)
  expect(both.images[0]!.bytes).not.toEqual(second.images[0]!.bytes)
})

test('both variants run, one prediction after the other', async () => {
  start()
  const finished: string[] = []
  await Promise.all(
    (['dev', 'schnell', 'dev'] as const).map(async (variant, i) => {
      await engine.generate(requestOf({ ...plan, variant }))
      finished.push(`${variant} ${i}`)
    }),
  )
  expect(finished).toEqual(['dev 0', 'schnell 1', 'dev 2'])
})

test('a canceled prediction stops at the next step and the engine goes on', async () => {
  start()
  const canceling = new AbortController()
  let steps = 0
  const run = engine.generate(requestOf({ ...plan, steps: 50 }), {
    signal: canceling.signal,
    onEvent: (event) => {
      if (isProgress(event) && ++steps === 3) canceling.abort()
    },
  })
  await expect(run).rejects.toMatchObject({ code: 'canceled' })
  // The command crosses a process border while further steps of a millisecond each are made.
  expect(steps).toBeLessThan(45)
  expect((await engine.generate(requestOf(plan))).images).toHaveLength(1)
})

test('a prediction canceled while it waits never starts', async () => {
  start()
  const canceling = new AbortController()
  const first = engine.generate(requestOf(plan))
  const events: GenerationEvent[] = []
  const second = engine.generate(requestOf(plan), {
    signal: canceling.signal,
    onEvent: (event) => events.push(event),
  })
  canceling.abort()
  await expect(second).rejects.toMatchObject({ code: 'canceled' })
  await first
  expect(events).toEqual([])
})

test('a killed engine is restarted, and the prediction it ran fails with what happened', async () => {
  start()
  const before = await engine.generate(requestOf(plan))
  const killed = engine.pid()!
  const run = engine.generate(requestOf({ ...plan, steps: 50 }), {
    onEvent: (event) => void (isProgress(event) && process.kill(killed, 'SIGKILL')),
  })
  await expect(run).rejects.toMatchObject({
    code: 'engine_died',
    message: expect.stringMatching(
      /was killed by SIGKILL while it worked on this; it is being restarted/,
    ),
  })
  const after = await engine.generate(requestOf(plan))
  expect(engine.pid()).not.toBe(killed)
  expect(after.images[0]!.bytes).toEqual(before.images[0]!.bytes)
})

test('a prediction that waited behind a killed one runs on the next process', async () => {
  start()
  const onEvent = (event: GenerationEvent) =>
    void (isProgress(event) && process.kill(engine.pid()!, 'SIGKILL'))
  const first = engine.generate(requestOf({ ...plan, steps: 50 }), { onEvent })
  const second = engine.generate(requestOf(plan))
  await expect(first).rejects.toMatchObject({ code: 'engine_died' })
  expect((await second).images).toHaveLength(1)
})

test('a bad checkpoint fails its own predictions only', async () => {
  start({ schnell: join(temporaryFolder(), 'nothing') })
  const message = expect.stringMatching(/nothing: expected a diffusers folder or a Flux\.1/)
  await expect(engine.load('schnell')).rejects.toMatchObject({
    code: 'checkpoint_invalid',
    message,
  })
  await expect(engine.generate(requestOf({ ...plan, variant: 'schnell' }))).rejects.toMatchObject({
    message,
  })
  expect((await engine.generate(requestOf(plan))).images).toHaveLength(1)
})

test('a released variant gives its memory back and loads again when it is needed', async () => {
  start()
  const large = { ...plan, size: { width: 768, height: 768 }, steps: 1 }
  const before = await engine.generate(requestOf(large))
  const residentMegabytes = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${engine.pid()}/status`, 'utf8'))![1]) / 1024
  const loaded = residentMegabytes()
  await engine.release('dev')
  // Seen: activations of 768² of several hundred MB, all returned.
  expect(loaded - residentMegabytes()).toBeGreaterThan(100)
  const after = await engine.generate(requestOf(large))
  expect(after.images[0]!.bytes).toEqual(before.images[0]!.bytes)
})

test('a process that dies before it is ready fails nobody who waits for the next one', async () => {
  start()
  const waiting = engine.generate(requestOf(plan))
  process.kill(engine.pid()!, 'SIGKILL')
  expect((await waiting).images).toHaveLength(1)
})

test('an engine that is stopped before it is ready stays stopped', async () => {
  start()
  const waiting = engine.generate(requestOf(plan))
  const stopped = engine.stop()
  await expect(waiting).rejects.toMatchObject({ code: 'not_ready' })
  await stopped
  expect(engine.status()).toBe('stopped')
})

test('a stopped engine leaves no process behind', async () => {
  await start().generate(requestOf(plan))
  const pid = engine.pid()!
  await engine.stop()
  expect(() => process.kill(pid, 0)).toThrow(/ESRCH/)
  await expect(engine.generate(requestOf(plan))).rejects.toMatchObject({ code: 'not_ready' })
})
