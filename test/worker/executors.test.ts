/** Several executors of one worker: what they share, and what each has for itself. */
import { pino } from 'pino'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { FluxdError } from '../../src/errors.js'
import { startEngine } from '../../src/worker/engine/client.js'
import { createFakeEngine } from '../fakeEngine.js'
import { createGate } from '../gate.js'
import { fixturePath } from '../goldens.js'
import { openPredictions, request } from '../server/predictions/testPredictions.js'

const never = new Promise<void>(() => {})

test('each runs one prediction at a time', async () => {
  const engines = [1, 2].map(() => createFakeEngine({ gate: never }))
  const { predictions } = await openPredictions({ engines })
  for (let n = 0; n < 4; n++) await predictions.create(request())
  await vi.waitFor(() => expect(engines.map(({ plans }) => plans.length)).toEqual([1, 1]))
  expect(await predictions.counts()).toEqual({ waiting: 2, running: 2 })
})

test('an idle one takes over what a busy one only holds', async () => {
  const gate = createGate()
  const busy = createFakeEngine({ gate: never })
  const quick = createFakeEngine({ gate: gate.promise })
  const { predictions } = await openPredictions({ engines: [busy, quick] })
  const ids: string[] = []
  for (let seed = 1; seed <= 4; seed++)
    ids.push((await predictions.create(request({}, { seed }))).id)
  await vi.waitFor(() => expect([busy.plans.length, quick.plans.length]).toEqual([1, 1]))
  gate.open()
  await vi.waitFor(() => expect(quick.plans).toHaveLength(3))
  const done = ids.filter((_, index) => busy.plans[0]!.seed !== index + 1)
  for (const id of done)
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
  expect(await predictions.counts()).toEqual({ waiting: 0, running: 1 })
})

test('one whose engine dies does not disturb the other', async () => {
  const death = new FluxdError('engine_died', 'The engine process was killed by SIGKILL')
  const gate = createGate()
  const dying = createFakeEngine({ failures: [death, death] })
  const sound = createFakeEngine({ gate: gate.promise })
  const { predictions } = await openPredictions({ engines: [dying, sound] })
  const ids: string[] = []
  for (let n = 0; n < 2; n++) ids.push((await predictions.create(request())).id)
  await vi.waitFor(() => expect(dying.plans).toHaveLength(2))
  gate.open()
  const ends = await Promise.all(ids.map((id) => predictions.waitUntilTerminal(id)))
  expect(ends.map(({ status }) => status).sort()).toEqual(['failed', 'succeeded'])
})

test('one whose engine does not start claims nothing, and the others go on', async () => {
  const failing = createFakeEngine({ status: 'failing' })
  const sound = createFakeEngine()
  const { predictions } = await openPredictions({ engines: [failing, sound] })
  for (let n = 0; n < 3; n++) {
    const { id } = await predictions.create(request())
    expect(await predictions.waitUntilTerminal(id)).toMatchObject({ status: 'succeeded' })
  }
  expect([failing.plans.length, sound.plans.length]).toEqual([0, 3])
})

test('an urgent prediction runs before one that is held ahead', async () => {
  const gate = createGate()
  const { predictions, engine } = await openPredictions({ fake: { gate: gate.promise } })
  const seeds = { first: 1, ahead: 2, urgent: 3 }
  for (const seed of [seeds.first, seeds.ahead]) await predictions.create(request({}, { seed }))
  await vi.waitFor(() => expect(engine.plans).toHaveLength(1))
  const { id } = await predictions.create(request({ priority: 1 }, { seed: seeds.urgent }))
  gate.open()
  await predictions.waitUntilTerminal(id)
  await vi.waitFor(() => expect(engine.plans).toHaveLength(3))
  expect(engine.plans.map(({ seed }) => seed)).toEqual([1, 3, 2])
})

describe('with real engines', () => {
  const mixed = Array.from({ length: 20 }, (_, index) => ({
    seed: index,
    model: index % 3 === 0 ? 'schnell' : 'dev',
    go_fast: index % 4 === 1,
    num_outputs: 1 + (index % 2),
    aspect_ratio: 'custom',
    width: 256,
    height: index % 5 === 0 ? 320 : 256,
    output_format: 'png',
  }))

  /** The images of all predictions, by `engineCount` engines. */
  async function generate(engineCount: number): Promise<Map<string, Buffer>> {
    const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
    const engines = Array.from({ length: engineCount }, () =>
      startEngine({ checkpoints, threads: 1 }, pino({ level: 'silent' })),
    )
    onTestFinished(async () => {
      await Promise.all(engines.map((engine) => engine.stop()))
    })
    const { predictions, files } = await openPredictions({ engines })
    const created = await Promise.all(
      mixed.map((fields) => predictions.create(request({}, fields))),
    )
    const images = new Map<string, Buffer>()
    for (const [index, { id }] of created.entries()) {
      const { status, output = [] } = await predictions.waitUntilTerminal(id)
      expect(status).toBe('succeeded')
      for (const { name, fileId } of output)
        images.set(`${index} ${name}`, Buffer.from(await files.read(fileId)))
    }
    return images
  }

  test('two make the same pixels of 20 mixed predictions as one', {
    timeout: 300_000,
  }, async () => {
    const [one, two] = [await generate(1), await generate(2)]
    expect(one.size).toBe(30)
    expect([...two.keys()]).toEqual([...one.keys()])
    for (const [name, bytes] of one) expect(two.get(name)!.equals(bytes), name).toBe(true)
  })
})
