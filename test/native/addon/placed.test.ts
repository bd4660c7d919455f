/** Inputs that stay on the device, and runs that a signal ends, in sessions of the fused dialect. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { loadModels, type Models } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import type { NativeSession } from '../../../src/engine/runtime/backends/native/addon.js'
import { createFusedBackend } from '../../../src/engine/runtime/backends/native/backend.js'
import { createSession, type Session } from '../../../src/engine/runtime/backends/ort/session.js'
import { createGraph, type Graph } from '../../../src/engine/runtime/onnx/graph.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { floatTensor, type Tensor } from '../../../src/safetensors/tensor.js'
import { withoutPlaces } from '../../bench/unplaced.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'
import { addon, device } from './kit.js'
import { gaussian } from './numbers.js'
import { type Account, watchAddon } from './watched.js'

const { watched, account } = watchAddon()
const backend = createFusedBackend({
  addon: watched,
  device,
  dtype: 'F32',
  attention: 'float32',
})
const options = { threads: 1, widenWeights: 'load' } as const

const open = async (graph: Graph) =>
  (await backend.createSessions({ session: { graph } }, options)).session

const vector = (...values: number[]) => floatTensor(Float32Array.from(values), [values.length])
const valuesOf = (tensor: Tensor | undefined) => [...tensor!.data]

/** y = a·b + c */
function mixed(): Graph {
  const graph = createGraph('mixed')
  const [a, b, c] = ['a', 'b', 'c'].map((name) => graph.input(name, 'F32', ['n']))
  graph.output('y', graph.node('Add', [graph.node('Mul', [a!, b!]), c!]), 'F32', ['n'])
  return graph
}

const quiet: Pick<Account, 'onWrite' | 'onRun'> = { onWrite() {}, onRun: (start) => start() }
beforeEach(() => {
  Object.assign(account, { made: 0, surplus: 0, runs: 0, ...quiet })
})

describe.each(['native', 'onnxruntime-node'] as const)('a session of %s', (kind) => {
  let session: Session
  beforeAll(async () => {
    session = await (kind === 'native' ? open(mixed()) : createSession(mixed().encode(), options))
  })
  afterAll(() => session.release())

  test('takes placed inputs for those of its runs, as often as it runs', async () => {
    const common = await session.bindInputs({ a: vector(2, 3) })
    const rows = [
      await common.bindInputs({ b: vector(10, 20) }),
      await common.bindInputs({ b: vector(-1, 1), c: vector(0, 0) }),
    ]
    for (let i = 0; i < 3; i++) {
      const { y } = await rows[0]!.run({ c: vector(i, i) })
      expect(valuesOf(y)).toEqual([20 + i, 60 + i])
      expect(valuesOf((await rows[1]!.run({}))['y'])).toEqual([-2, 3])
      const given = await common.run({ b: vector(1, 1), c: vector(i, 0) })
      expect(valuesOf(given['y'])).toEqual([2 + i, 3])
    }
    for (const each of [...rows, common]) await each.release()
  })

  test('keeps the values as they were placed', async () => {
    const a = vector(2, 3)
    const placed = await session.bindInputs({ a: { ...a, data: a.data.slice() } })
    const { y } = await placed.run({ b: vector(1, 1), c: vector(0, 0) })
    expect(valuesOf(y)).toEqual([2, 3])
    await placed.release()
  })
})

describe('a placed input', () => {
  test('cannot be used after its release, which comes after the runs before it', async () => {
    const session = await open(mixed())
    const placed = await session.bindInputs({ a: vector(2, 3) })
    const inputs = { b: vector(1, 1), c: vector(0, 0) }
    const running = placed.run(inputs)
    await placed.release()
    expect(valuesOf((await running)['y'])).toEqual([2, 3])
    await expect(placed.run(inputs)).rejects.toThrow(/expected a tensor but it has been released/)
    expect(valuesOf((await session.run({ a: vector(1, 1), ...inputs }))['y'])).toEqual([1, 1])
    await session.release()
  })

  test('gives its memory back', async () => {
    const session = await open(mixed())
    const large = floatTensor(new Float32Array(2 ** 24).fill(1), [2 ** 24])
    const before = residentMegabytes()
    for (let i = 0; i < 20; i++) await (await session.bindInputs({ a: large })).release()
    const after = residentMegabytes()
    const placed = await session.bindInputs({ a: large })
    // 64 MB. Observed: 0.1 MB after the releases, 64 MB with the last one in place.
    expect(after - before).toBeLessThan(32)
    expect(residentMegabytes() - after).toBeGreaterThan(48)
    await placed.release()
    await session.release()
  })

  test('that cannot be written leaves nothing behind', async () => {
    const session = await open(mixed())
    let writes = 0
    account.onWrite = () => {
      if (++writes === 2) throw new Error('the bus is gone')
    }
    const inputs = { a: vector(1), b: vector(1), c: vector(1) }
    await expect(session.bindInputs(inputs)).rejects.toThrow('the bus is gone')
    expect(account).toMatchObject({ made: 2, surplus: 0, live: new Set() })
    await session.release()
  })
})

const residentMegabytes = () =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024

const side = 512
const square = floatTensor(gaussian(side * side, 1, side ** -0.5), [side, side])

/** x after so many products with itself. */
function slow(products: number): Graph {
  const graph = createGraph('slow')
  let x = graph.input('x', 'F32', [side, side])
  for (let i = 0; i < products; i++) x = graph.node('Linear', [x, x], { domain: 'fluxd' })
  graph.output('y', x, 'F32', [side, side])
  return graph
}
const nativeSquare = { x: { dtype: 'F32', dims: square.dims, data: square.data } } as const

describe('a signal', () => {
  test('ends the run, which rejects with its reason; the next one goes through', async () => {
    // Alone it takes 20 s.
    const session = await open(slow(4000))
    const quick = await open(mixed())
    const canceling = new AbortController()
    setTimeout(() => canceling.abort(new Error('no longer wanted')), 50)
    const placed = await session.bindInputs({ x: square })
    await expect(placed.run({}, { signal: canceling.signal })).rejects.toThrow('no longer wanted')
    const inputs = { a: vector(2), b: vector(3), c: vector(4) }
    const { signal } = new AbortController()
    expect(valuesOf((await quick.run(inputs, { signal }))['y'])).toEqual([10])
    await placed.release()
    for (const each of [session, quick]) await each.release()
  })

  test('ends the second run of a session as it did the first, and then it runs', async () => {
    const session = await open(slow(60))
    for (let i = 0; i < 2; i++) {
      const canceling = new AbortController()
      const running = session.run({ x: square }, { signal: canceling.signal })
      canceling.abort()
      await expect(running).rejects.toBe(canceling.signal.reason)
    }
    expect((await session.run({ x: square }))['y']!.dims).toEqual([side, side])
    await session.release()
  })

  test('that was given before starts nothing', async () => {
    const session = await open(mixed())
    const signal = AbortSignal.abort()
    const inputs = { a: vector(1), b: vector(1), c: vector(1) }
    await expect(session.run(inputs, { signal })).rejects.toBe(signal.reason)
    expect(account.runs).toBe(0)
    await session.release()
  })

  test('does not hide that the device failed meanwhile', async () => {
    const session = await open(mixed())
    const canceling = new AbortController()
    account.onRun = async () => {
      canceling.abort()
      throw new Error('the bus is gone')
    }
    const running = session.run({ a: vector(1) }, { signal: canceling.signal })
    await expect(running).rejects.toThrow('the bus is gone')
    await session.release()
  })
})

describe('pictures', () => {
  const plan: GenerationPlan = { ...foxPlan, count: 2 }
  let models: Models
  let unplaced: Models
  let blocker: NativeSession
  beforeAll(async () => {
    const load = (own: Backend) =>
      loadModels('dev', fixturePath('tiny-dev'), { threads: 1, backend: own })
    models = await load(backend)
    unplaced = await load(withoutPlaces(backend))
    blocker = new addon.Session(device)
    await blocker.load(slow(4000).encode(), { threads: 1, optimization: 'all' })
  })
  afterAll(async () => {
    for (const each of [models, unplaced, blocker]) await each.release()
  })

  type Hooks = { readonly signal?: AbortSignal; readonly onProgress?: (step: number) => void }

  async function generateImage(
    own: GenerationPlan,
    { signal, onProgress }: Hooks = {},
    of = models,
  ) {
    const images: Uint8Array[] = []
    await generate(own, of, {
      signal: signal ?? new AbortController().signal,
      onProgress: ({ step }) => onProgress?.(step),
      onImage: (_, { bytes }) => images.push(bytes),
    })
    return images
  }

  /** Ends what is enqueued by `start` before it can begin, however busy this machine is. */
  async function endBefore<Result>(start: () => Promise<Result>, canceling: AbortController) {
    const blocked = blocker.run(nativeSquare, { y: null }).catch(() => {})
    const running = start()
    canceling.abort()
    blocker.terminate()
    await blocked
    return running
  }

  const expectNothingLeft = () => expect(account).toMatchObject({ surplus: 0, live: new Set() })

  test('share what their steps have in common', async () => {
    await generateImage(plan)
    // The text stream, two tables, and a row of modulation for each step.
    expect(account.made).toBe(3 + plan.steps)
    expectNothingLeft()
  })

  test('are bit for bit those of inputs that every step brings along', async () => {
    for (const own of [plan, { ...plan, precision: 'fp8' as const, size: square64 }]) {
      const want = await generateImage(own, {}, unplaced)
      expect(want).toHaveLength(2)
      expect(account.made).toBe(0)
      expect(await generateImage(own)).toEqual(want)
      expect(account.made).toBeGreaterThan(0)
      account.made = 0
    }
  })

  // CLIP, T5, conditioning, two steps, decoder.
  test.each([0, 1, 2, 3, 4, 5])('are given up in run %i, without an end of it', async (index) => {
    const own = { ...plan, prompt: `fox ${index}`, count: 1, steps: 2 }
    const canceling = new AbortController()
    account.onRun = (start) => (account.runs > index ? endBefore(start, canceling) : start())
    let steps = 0
    const generating = generateImage(own, {
      signal: canceling.signal,
      onProgress: () => steps++,
    })
    await expect(generating).rejects.toMatchObject({ name: 'AbortError' })
    expect(account.runs).toBe(index + 1)
    expect(steps).toBe(Math.min(Math.max(index - 3, 0), 2))
    expectNothingLeft()
    account.onRun = (start) => start()
    expect(await generateImage(own)).toEqual(await generateImage(own, {}, unplaced))
  })

  test('leave nothing on the device, 200 of them, whatever happens', async () => {
    const roll = createDice()
    const short = { ...plan, count: 1, steps: 2 }
    const want = await generateImage(short)
    const ends = { generated: 0, failed: 0 }
    for (let i = 0; i < 200; i++) {
      const canceling = new AbortController()
      const moment = roll(6)
      const fail = () => {
        throw new Error('engine gone')
      }
      const hooks: Hooks = { signal: canceling.signal }
      account.runs = 0
      let writes = 0
      const kinds: readonly (() => Hooks)[] = [
        () => hooks,
        () => ({ ...hooks, onProgress: () => canceling.abort() }),
        () => ({ ...hooks, onProgress: fail }),
        () => {
          account.onWrite = () => writes++ === moment && fail()
          return hooks
        },
        () => {
          account.onRun = async (start) => (account.runs > moment ? fail() : start())
          return hooks
        },
        () => {
          account.onRun = (start) => (account.runs > moment ? endBefore(start, canceling) : start())
          return hooks
        },
      ]
      await generateImage({ ...short, seed: i }, kinds[roll(kinds.length)]!()).then(
        () => ends.generated++,
        () => ends.failed++,
      )
      expect(account, `generation ${i}`).toMatchObject({ surplus: 0, live: new Set() })
      Object.assign(account, quiet)
    }
    expect(Math.min(ends.generated, ends.failed)).toBeGreaterThan(20)
    expect(await generateImage(short)).toEqual(want)
  })
})

const square64 = { width: 64, height: 64 }

/** The same numbers every time. */
function createDice() {
  let state = 1
  return (end: number) => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((state / 2 ** 32) * end)
  }
}
