/** Which weights are uploaded, which are shared, and when they go. */
import { expect, test } from 'vitest'
import { loraSetKey } from '../../../src/engine/models/loraSet.js'
import { type LowRankChanges, unchanged } from '../../../src/engine/runtime/backends/backend.js'
import type {
  Addon,
  LowRankChange,
  WeightSource,
} from '../../../src/engine/runtime/backends/native/addon.js'
import { createDeviceWeights } from '../../../src/engine/runtime/backends/native/deviceWeights.js'
import type { SharedWeight } from '../../../src/engine/runtime/onnx/graph.js'
import type { TensorSource } from '../../../src/engine/runtime/weights/weights.js'
import { openSafetensors } from '../../../src/safetensors/read.js'
import { fixturePath } from '../../goldens.js'
import { addon, device } from './kit.js'

const path = 'tiny-dev/transformer/diffusion_pytorch_model-00001-of-00003.safetensors'
const tensors = openSafetensors(fixturePath(path)).tensors
const shared = (name: string, ...parts: TensorSource[]): SharedWeight => ({
  name,
  dtype: 'F32',
  dims: [parts.reduce((rows, { shape }) => rows + shape[0]!, 0), ...parts[0]!.shape.slice(1)],
  parts,
})
const [first, second, third] = [...tensors.values()] as [TensorSource, TensorSource, TensorSource]
const a = shared('a', first)
const b = shared('b', second)
const c = shared('c', third)
const merged = (weight: SharedWeight): SharedWeight => ({
  ...weight,
  parts: weight.parts.map(({ name, shape }) => ({
    name,
    shape,
    dtype: 'F32',
    values: new Float32Array(shape.reduce((x, y) => x * y)),
  })),
})

/** A deviceWeights over the addon that also writes down what it uploads and releases. */
function watchedWeights() {
  const log: string[] = []
  const faults: string[] = []
  /** Writes a call down; it fails after it was made where `faults` says so. */
  const note = (call: string, result: Promise<void>) => {
    log.push(call)
    if (faults[0] !== call.split(' ')[0]) return result
    faults.shift()
    return result.then(() => Promise.reject(new Error(`no ${call}`)))
  }
  class WatchedSet extends addon.WeightSet {
    names = ''
    override upload = (sources: readonly WeightSource[], options: Parameters<typeof upload>[1]) => {
      this.names = sources.map(({ name }) => name).join()
      log.push(`+${this.names}`)
      return upload.call(this, sources, options)
    }
    override merge = (changes: readonly LowRankChange[]) =>
      note(`merge ${showScales(changes)}`, merge.call(this, changes))
    override stage = (changes: readonly LowRankChange[]) =>
      note(`stage ${showScales(changes)}`, stage.call(this, changes))
    override swap = () => note('swap', swap.call(this))
    override rescale = (scales: readonly Float32Array[]) =>
      note(`rescale ${scales}`, rescale.call(this, scales))
    override release = () => {
      log.push(`-${this.names}`)
      return release.call(this)
    }
  }
  const { upload, merge, stage, swap, rescale, release } = addon.WeightSet.prototype
  const watched: Addon = { ...addon, WeightSet: WatchedSet }
  return { log, faults, deviceWeights: createDeviceWeights(watched, device) }
}

const showScales = (changes: readonly LowRankChange[]) =>
  changes.map(({ name, scale }) => `${name} ${scale}`)

const matrix = [...tensors.values()].find(({ shape }) => shape.length === 2)!
const [rows = 0, width = 0] = matrix.shape

/** A LoRA of rank 1 at any scale; another one each time. */
let loras = 0
function createLora() {
  const files = `lora ${loras++}`
  const factors = { rank: 1, up: new Float32Array(rows), down: new Float32Array(width) }
  return (scale: number): LowRankChanges => ({
    key: loraSetKey(files, [scale]),
    files,
    matrices: new Map([[matrix.name, { ...factors, scale: Float32Array.of(scale) }]]),
  })
}

test('only what is new is uploaded, and weights go with their last user', async () => {
  const { log, deviceWeights } = watchedWeights()
  const base = await deviceWeights.acquire([[a, b]])
  const lora = await deviceWeights.acquire([[a, merged(b)]])
  const wider = await deviceWeights.acquire([[a, b, c]])
  expect(log).toEqual(['+a,b', '+b', '+c'])
  expect([base, lora, wider].map(({ sets }) => sets.length)).toEqual([1, 2, 2])
  const another = base.retain()
  await base.release()
  await lora.release()
  await wider.release()
  expect(log.slice(3)).toEqual(['-b', '-c'])
  await another.release()
  expect(log.slice(5)).toEqual(['-a,b'])
  await (await deviceWeights.acquire([[a]])).release()
  expect(log.slice(6)).toEqual(['+a', '-a'])
})

test('values in memory are never taken for others', async () => {
  const { log, deviceWeights } = watchedWeights()
  const one = await deviceWeights.acquire([[merged(a)]])
  const other = await deviceWeights.acquire([[merged(a)]])
  expect(log).toEqual(['+a', '+a'])
  await one.release()
  await other.release()
})

test('an upload that fails leaves the base to its users', async () => {
  const { log, deviceWeights } = watchedWeights()
  const base = await deviceWeights.acquire([[a]])
  const broken = { ...b, dims: [1] }
  await expect(deviceWeights.acquire([[a, broken]])).rejects.toThrow(/b: expected parts of 1 rows/)
  expect((await deviceWeights.acquire([[a]])).sets).toEqual(base.sets)
  expect(log).toEqual(['+a', '+b'])
})

test('factors are uploaded once for any scales, and the same changes again do nothing', async () => {
  const { log, deviceWeights } = watchedWeights()
  const weights = await deviceWeights.acquire([[shared('m', matrix)]], 'adaptable')
  const at = createLora()
  const one = at(1)
  for (const changes of [one, one, at(0.5), unchanged, unchanged]) await weights.activate(changes)
  expect(log).toEqual(['+m', 'merge m 1', 'rescale 0.5', 'merge '])
  await weights.release()
})

test('what was staged or was in use before is swapped in, and nothing is uploaded twice', async () => {
  const { log, deviceWeights } = watchedWeights()
  const weights = await deviceWeights.acquire([[shared('m', matrix)]], 'adaptable')
  const [a, b] = [createLora(), createLora()]
  const [one, two] = [a(1), b(2)]
  await weights.stage(one)
  await weights.stage(one)
  await weights.activate(one)
  await weights.stage(two)
  for (const changes of [two, one, two]) await weights.activate(changes)
  expect(log.splice(0)).toEqual(['+m', 'stage m 1', 'swap', 'stage m 2', 'swap', 'swap', 'swap'])
  // Another scale needs no staging; the set that was active before is swapped in by its key.
  await weights.stage(b(3))
  for (const changes of [b(3), a(1), b(3)]) await weights.activate(changes)
  expect(log.splice(0)).toEqual(['rescale 3', 'swap', 'swap'])
  // The base can be staged like anything else, and keeps what was in use at hand.
  const four = b(4)
  for (const changes of [four, unchanged, four]) {
    await weights.stage(unchanged)
    await weights.activate(changes)
  }
  expect(log).toEqual(['stage ', 'rescale 4', 'swap', 'swap'])
  await weights.release()
})

test('calls wait for each other: nothing is staged into what is being swapped', async () => {
  const { log, deviceWeights } = watchedWeights()
  const weights = await deviceWeights.acquire([[shared('m', matrix)]], 'adaptable')
  const [one, two] = [createLora()(1), createLora()(2)]
  const calls = [
    weights.stage(one),
    weights.activate(one),
    weights.stage(two),
    weights.activate(two),
    weights.release(),
  ]
  await Promise.all(calls)
  expect(log).toEqual(['+m', 'stage m 1', 'swap', 'stage m 2', 'swap', '-m'])
})

test('after a failure nothing counts as active: everything is uploaded again', async () => {
  const { log, faults, deviceWeights } = watchedWeights()
  const weights = await deviceWeights.acquire([[shared('m', matrix)]], 'adaptable')
  const [one, two] = [createLora()(1), createLora()(2)]
  const failing = (call: string, work: () => Promise<void>) => {
    faults.push(call)
    return expect(work()).rejects.toThrow(`no ${call}`)
  }
  await failing('stage', () => weights.stage(one))
  await weights.activate(one)
  expect(log.splice(0)).toEqual(['+m', 'stage m 1', 'merge m 1'])
  await weights.stage(two)
  await failing('swap', () => weights.activate(two))
  await weights.activate(one)
  await weights.activate(two)
  expect(log.splice(0)).toEqual(['stage m 2', 'swap', 'merge m 1', 'merge m 2'])
  await weights.stage(one)
  await failing('merge', () => weights.activate(unchanged))
  await weights.activate(one)
  await weights.activate(unchanged)
  expect(log).toEqual(['stage m 1', 'merge ', 'swap', 'merge '])
  await weights.release()
})

test('weights whose base is not kept are not taken for adaptable ones', async () => {
  const { log, deviceWeights } = watchedWeights()
  const fixed = await deviceWeights.acquire([[a]])
  const adaptable = await deviceWeights.acquire([[a]], 'adaptable')
  const shares = await deviceWeights.acquire([[a]])
  expect(log).toEqual(['+a', '+a'])
  for (const each of [fixed, adaptable, shares]) await each.release()
})
