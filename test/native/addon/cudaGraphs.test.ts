/**
 * Sessions that capture runs as CUDA graphs, on the CPU: there a captured run is an ordinary one over
 * the same tensors. test/cuda/graphs.test.ts has the CUDA provider capture them.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { loadModels, type Models } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import { createFusedBackend } from '../../../src/engine/runtime/backends/native/backend.js'
import type { Session } from '../../../src/engine/runtime/backends/ort/session.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { floatTensor, type Tensor } from '../../../src/safetensors/tensor.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'
import { device, fusedBackend } from './kit.js'
import { watchAddon } from './watched.js'

const { watched, account } = watchAddon()
const limit = 2
const warnings: string[] = []
const backend = createFusedBackend({
  addon: watched,
  device,
  captures: limit,
  onWarning: (message) => warnings.push(message),
  dtype: 'F32',
  attention: 'float32',
})

let writes = 0
beforeEach(() => {
  writes = 0
  warnings.length = 0
  const onWrite = () => {
    writes++
  }
  const counts = { made: 0, surplus: 0, copies: 0, loads: 0, runs: 0 }
  Object.assign(account, { ...counts, onWrite, onLoad() {} })
})

/** y = a − b */
async function openDifference(): Promise<Session> {
  const graph = createGraph('difference')
  const [a, b] = ['a', 'b'].map((name) => graph.input(name, 'F32', ['n']))
  graph.output('y', graph.node('Sub', [a!, b!]), 'F32', ['n'])
  const models = { session: { graph, isRepeated: true } }
  return (await backend.createSessions(models, { threads: 1, widenWeights: 'load' })).session
}

describe('a repeated model', () => {
  let session: Session
  beforeAll(async () => {
    session = await openDifference()
  })
  afterAll(async () => {
    await session.release()
    expect(account).toMatchObject({ surplus: 0, live: new Set() })
  })

  const vector = (...values: number[]) => floatTensor(Float32Array.from(values), [values.length])
  const valuesOf = (tensor: Tensor | undefined) => [...tensor!.data]

  test('is captured once for each of the first shapes, in their second runs', async () => {
    for (const n of [1, 2, 3, 1, 2, 3, 3, 2, 1]) {
      const { y } = await session.run({
        a: vector(...Array(n).fill(n)),
        b: vector(...Array(n).fill(1)),
      })
      expect(valuesOf(y)).toEqual(Array(n).fill(n - 1))
    }
    expect(account.loads).toBe(limit)
    // a, b and y.
    expect(account.made).toBe(3 * limit)
    expect(account.runs).toBe(9)
  })

  test('writes what a run brings along, and copies what was placed when that changes', async () => {
    const [placed, other] = [
      await session.bindInputs({ a: vector(5) }),
      await session.bindInputs({ a: vector(7) }),
    ]
    writes = 0
    const b = vector(1)
    for (let i = 0; i < 4; i++) {
      b.data[0] = i
      expect(valuesOf((await placed.run({ b }))['y'])).toEqual([5 - i])
    }
    expect([writes, account.copies]).toEqual([4, 1])
    expect(valuesOf((await other.run({ b }))['y'])).toEqual([4])
    expect(valuesOf((await placed.run({ b }))['y'])).toEqual([2])
    expect([writes, account.copies]).toEqual([6, 3])
    expect(valuesOf((await session.run({ a: vector(8), b }))['y'])).toEqual([5])
    expect(valuesOf((await placed.run({ b }))['y'])).toEqual([2])
    expect([writes, account.copies]).toEqual([9, 4])
    expect(account.loads).toBe(0)
    for (const each of [placed, other]) await each.release()
  })

  test('forgets a capture whose run failed', async () => {
    const inputs = { a: vector(3, 4), b: vector(1, 1) }
    account.onWrite = () => {
      throw new Error('the bus is gone')
    }
    await expect(session.run(inputs)).rejects.toThrow('the bus is gone')
    account.onWrite = () => {}
    for (let i = 0; i < 3; i++) expect(valuesOf((await session.run(inputs))['y'])).toEqual([2, 3])
    expect(account.loads).toBe(1)
    expect(account.surplus).toBe(0)
  })

  test.each(['load', 'run'])('runs as before where its capture fails to %s, once', async (step) => {
    const own = await openDifference()
    const { loads, runs } = account
    const fail = () => {
      throw new Error('out of memory')
    }
    if (step === 'load') account.onLoad = fail
    else account.onWrite = fail
    for (const n of [0, 1, 2, 3]) {
      const { y } = await own.run({ a: vector(n, 5), b: vector(1, 1) })
      expect(valuesOf(y)).toEqual([n - 1, 4])
    }
    expect([account.loads - loads, account.runs - runs]).toEqual([1, 4])
    expect(warnings).toEqual([expect.stringMatching(/^no CUDA graph of a step .*: out of memory$/)])
    await own.release()
  })

  test('runs nothing for a signal that was given before', async () => {
    const { runs } = account
    const signal = AbortSignal.abort()
    const inputs = { a: vector(3, 4), b: vector(1, 1) }
    await expect(session.run(inputs, { signal })).rejects.toBe(signal.reason)
    expect(account.runs).toBe(runs)
  })
})

test('images are bit for bit those of ordinary runs, whatever their sizes and order', async () => {
  const load = (own = backend) =>
    loadModels('dev', fixturePath('tiny-dev'), { threads: 1, backend: own })
  const captured = await load()
  const ordinary = await load(fusedBackend('F32'))
  await generateImage({ ...foxPlan, size: { width: 64, height: 64 } }, captured)
  const before = account.loads
  const sizes = [64, 96, 128, 64, 96, 128, 64]
  for (const [i, width] of sizes.entries()) {
    const plan = { ...foxPlan, size: { width, height: 64 }, seed: i, prompt: `a fox ${i}` }
    expect(await generateImage(plan, captured), `image ${i}`).toEqual(
      await generateImage(plan, ordinary),
    )
  }
  const fp8 = { ...foxPlan, precision: 'fp8' } as const
  expect(await generateImage(fp8, captured)).toEqual(await generateImage(fp8, ordinary))
  // The second size; the transformer of the other precision, and its only size.
  expect(account.loads - before).toBe(1 + 2 + 1)
  await captured.release()
  await ordinary.release()
  expect(account).toMatchObject({ surplus: 0, live: new Set() })
})

async function generateImage(plan: GenerationPlan, models: Models) {
  const images: Uint8Array[] = []
  await generate(plan, models, {
    signal: new AbortController().signal,
    onProgress: () => {},
    onImage(_, { bytes }) {
      images.push(bytes)
    },
  })
  return images
}
