/** Which weights are uploaded, which are shared, and when they go. */
import { expect, test } from 'vitest'
import type { Addon, LowRankChange, WeightSource } from '../../../src/native/addon.js'
import { unchanged } from '../../../src/runtime/backend.js'
import type { SharedWeight } from '../../../src/runtime/graph.js'
import { openSafetensors } from '../../../src/runtime/safetensors.js'
import { createWeightStock } from '../../../src/runtime/weightStock.js'
import type { TensorSource } from '../../../src/runtime/weights.js'
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

/** A stock over the addon that also writes down what it uploads and releases. */
function watchedStock() {
  const log: string[] = []
  class WatchedSet extends addon.WeightSet {
    names = ''
    override upload = (sources: readonly WeightSource[], options: Parameters<typeof upload>[1]) => {
      this.names = sources.map(({ name }) => name).join()
      log.push(`+${this.names}`)
      return upload.call(this, sources, options)
    }
    override merge = (changes: readonly LowRankChange[]) => {
      log.push(`merge ${changes.map(({ name, scale }) => `${name} ${scale}`)}`)
      return merge.call(this, changes)
    }
    override rescale = (scales: readonly Float32Array[]) => {
      log.push(`rescale ${scales}`)
      return rescale.call(this, scales)
    }
    override release = () => {
      log.push(`-${this.names}`)
      return release.call(this)
    }
  }
  const { upload, merge, rescale, release } = addon.WeightSet.prototype
  const watched: Addon = { ...addon, WeightSet: WatchedSet }
  return { log, stock: createWeightStock(watched, device) }
}

test('only what is new is uploaded, and weights go with their last user', async () => {
  const { log, stock } = watchedStock()
  const base = await stock.take([[a, b]])
  const lora = await stock.take([[a, merged(b)]])
  const wider = await stock.take([[a, b, c]])
  expect(log).toEqual(['+a,b', '+b', '+c'])
  expect([base, lora, wider].map(({ sets }) => sets.length)).toEqual([1, 2, 2])
  const another = base.share()
  await base.drop()
  await lora.drop()
  await wider.drop()
  expect(log.slice(3)).toEqual(['-b', '-c'])
  await another.drop()
  expect(log.slice(5)).toEqual(['-a,b'])
  await (await stock.take([[a]])).drop()
  expect(log.slice(6)).toEqual(['+a', '-a'])
})

test('values in memory are never taken for others', async () => {
  const { log, stock } = watchedStock()
  const one = await stock.take([[merged(a)]])
  const other = await stock.take([[merged(a)]])
  expect(log).toEqual(['+a', '+a'])
  await one.drop()
  await other.drop()
})

test('an upload that fails leaves the base to its users', async () => {
  const { log, stock } = watchedStock()
  const base = await stock.take([[a]])
  const broken = { ...b, dims: [1] }
  await expect(stock.take([[a, broken]])).rejects.toThrow(/b: expected parts of 1 rows/)
  expect((await stock.take([[a]])).sets).toEqual(base.sets)
  expect(log).toEqual(['+a', '+b'])
})

test('factors are uploaded once for any scales, and the same changes again do nothing', async () => {
  const { log, stock } = watchedStock()
  const matrix = [...tensors.values()].find(({ shape }) => shape.length === 2)!
  const [rows = 0, width = 0] = matrix.shape
  const weights = await stock.take([[shared('m', matrix)]], 'adaptable')
  const factors = { rank: 1, up: new Float32Array(rows), down: new Float32Array(width) }
  const at = (scale: number) =>
    new Map([[matrix.name, { ...factors, scale: Float32Array.of(scale) }]])
  const one = at(1)
  for (const changes of [one, one, at(0.5), unchanged, unchanged]) await weights.adapt(changes)
  expect(log).toEqual(['+m', 'merge m 1', 'rescale 0.5', 'merge '])
  await weights.drop()
})

test('weights whose base is not kept are not taken for adaptable ones', async () => {
  const { log, stock } = watchedStock()
  const fixed = await stock.take([[a]])
  const adaptable = await stock.take([[a]], 'adaptable')
  const shares = await stock.take([[a]])
  expect(log).toEqual(['+a', '+a'])
  for (const each of [fixed, adaptable, shares]) await each.drop()
})
