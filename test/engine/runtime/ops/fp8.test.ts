/** Rounding to e4m3 by ONNX Runtime is that of the format's definition, value by value. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createSession } from '../../../../src/engine/runtime/backends/ort/session.js'
import { createGraph, type Graph, type Value } from '../../../../src/engine/runtime/onnx/graph.js'
import { cast } from '../../../../src/engine/runtime/ops/dequantize.js'
import { roundRowsToE4m3 } from '../../../../src/engine/runtime/ops/fp8.js'
import { portableOps } from '../../../../src/engine/runtime/ops/portable.js'
import { type FloatTensor, floatTensor, intTensor } from '../../../../src/safetensors/tensor.js'
import { expectClose } from '../../../goldens.js'
import { hashed, temporaryFolder } from '../../../weightFiles.js'
import { fromE4m3, roundRows, toE4m3 } from '../e4m3.js'

/** What `build` makes of x. */
async function compute(
  data: Float32Array,
  dims: readonly number[],
  build: (graph: Graph, x: Value) => Value,
): Promise<Float32Array> {
  const graph = createGraph('fp8')
  const x = graph.input('x', 'F32', dims)
  graph.output('y', build(graph, x), 'F32', [])
  const session = await createSession(graph.encode(), { threads: 1, widenWeights: 'load' })
  const { y } = await session.run({ x: floatTensor(data, dims) })
  await session.release()
  return (y as FloatTensor).data
}

const codes = Uint8Array.from({ length: 256 }, (_, code) => code)
const grid = Float32Array.from(codes, fromE4m3)
const finite = grid.filter((value) => !Number.isNaN(value)).sort()

describe('the format', () => {
  test('has 253 finite values up to 448, and two codes of NaN', () => {
    expect(new Set(finite).size).toBe(253)
    expect([finite[0], finite.at(-1)]).toEqual([-448, 448])
    expect([...codes].filter((code) => Number.isNaN(grid[code]!))).toEqual([0x7f, 0xff])
  })

  test('stored in a file is read code by code', async () => {
    const file = join(temporaryFolder(), 'codes')
    writeFileSync(file, codes)
    const stored = {
      name: 'w',
      file,
      dtype: 'F8_E4M3',
      shape: [256],
      offset: 0,
      byteLength: 256,
    } as const
    const ones = new Float32Array(256).fill(1)
    const got = await compute(ones, [256], (graph, x) =>
      graph.node('Mul', [x, portableOps(graph).weight(stored)]),
    )
    expect(got).toEqual(grid)
    const scaled = await compute(ones, [256], (graph, x) =>
      graph.node('Mul', [x, portableOps(graph).weight({ ...stored, scale: 0.3 })]),
    )
    expect(scaled).toEqual(grid.map((value) => value * Math.fround(0.3)))
  })
})

test('an embedding looks rows up in a table that is stored in e4m3', async () => {
  const file = join(temporaryFolder(), 'codes')
  writeFileSync(file, codes)
  const table = { name: 'w', file, dtype: 'F8_E4M3', shape: [64, 4], offset: 0 } as const
  const graph = createGraph('embedding')
  const ids = graph.input('ids', 'I32', [3])
  const rows = portableOps(graph).embedding({ ...table, byteLength: 256, scale: 2 }, ids)
  graph.output('rows', rows, 'F32', [3, 4])
  const session = await createSession(graph.encode(), { threads: 1, widenWeights: 'run' })
  const got = await session.run({ ids: intTensor(Int32Array.of(5, 0, 62), [3]) })
  await session.release()
  const row = (id: number) => [...grid.subarray(4 * id, 4 * id + 4)].map((value) => 2 * value)
  expect([...(got['rows'] as FloatTensor).data]).toEqual([5, 0, 62].flatMap(row))
})

describe('a cast to e4m3', () => {
  const roundTrip = (values: Float32Array) =>
    compute(values, [values.length], (graph, x) => cast(graph, cast(graph, x, 'F8_E4M3'), 'F32'))
  const twin = (values: Float32Array) => values.map((value) => fromE4m3(toE4m3(value)))

  test('keeps every value of the format', async () => {
    expect(await roundTrip(finite)).toEqual(finite)
  })

  test('rounds what lies between to nearest, ties to even', async () => {
    const middles = finite.slice(1).map((value, i) => (value + finite[i]!) / 2)
    const nearby = [...middles].flatMap((x) => [x, x * (1 - 1e-6), x * (1 + 1e-6)])
    const values = Float32Array.from([...nearby, ...hashed(1, 5000).map((x) => x * 500)])
    expect(await roundTrip(values)).toEqual(twin(values))
  })

  test('saturates beyond 448 and keeps NaN', async () => {
    const values = Float32Array.of(449, 464, 465, 1e30, -1e30, Infinity, -Infinity, Number.NaN)
    expect(await roundTrip(values)).toEqual(
      Float32Array.of(448, 448, 448, 448, -448, 448, -448, Number.NaN),
    )
  })
})

describe('rows rounded to e4m3', () => {
  test('have scales of their own and no NaN where they are zero', async () => {
    const values = hashed(3, 5 * 64).map(
      (x, i) => x * [1e-12, 1, 0, 3e4, 0.01][Math.floor(i / 64)]!,
    )
    const got = await compute(values, [5, 64], roundRowsToE4m3)
    expect(got).toEqual(roundRows(values, 64))
    expect(got.subarray(128, 192).every((value) => value === 0)).toBe(true)
    // Three fraction bits: half a step is 1/16 of a value.
    got.forEach((value, i) => {
      const amax = Math.max(...values.subarray(i - (i % 64), i - (i % 64) + 64).map(Math.abs))
      expect(Math.abs(value - values[i]!)).toBeLessThanOrEqual(
        Math.max(Math.abs(values[i]!) / 16, amax / 448 / 1000) * 1.0001,
      )
    })
  })

  test('are what a block layer multiplies in fp8, on both sides, and in bf16 are not', async () => {
    const [tokens, inputs, outputs] = [7, 48, 32]
    const x = hashed(4, tokens * inputs)
    const values = hashed(5, outputs * inputs)
    const bias = hashed(6, outputs)
    const inline = (name: string, data: Float32Array, shape: readonly number[]) =>
      ({ name, dtype: 'F32', shape, values: data }) as const
    const layer = {
      weight: inline('w', values, [outputs, inputs]),
      bias: inline('b', bias, [outputs]),
    }
    const run = (precision: 'bf16' | 'fp8') =>
      compute(x, [tokens, inputs], (graph, input) =>
        portableOps(graph, precision).blockLinear(input, layer),
      )
    const product = (a: Float32Array, b: Float32Array) =>
      Array.from({ length: tokens * outputs }, (_, k) => {
        const [row, column] = [Math.floor(k / outputs), k % outputs]
        let sum = bias[column]!
        for (let i = 0; i < inputs; i++) sum += a[row * inputs + i]! * b[column * inputs + i]!
        return sum
      })
    // The largest differences seen are 2.2e-6 and 1.4e-6: the order of float32 sums.
    expectClose(await run('fp8'), product(roundRows(x, inputs), roundRows(values, inputs)), 1e-5)
    expectClose(await run('bf16'), product(x, values), 1e-5)
  })

  test('are not rounded again where a checkpoint holds e4m3', async () => {
    const [tokens, inputs, outputs] = [3, 16, 16]
    const file = join(temporaryFolder(), 'codes')
    const kept = codes.map((code) => ((code & 0x7f) === 0x7f ? 0 : code))
    writeFileSync(file, kept)
    const stored = { file, dtype: 'F8_E4M3', shape: [outputs, inputs], offset: 0 } as const
    const weight = { ...stored, name: 'w', byteLength: 256, scale: 0.01 }
    const x = hashed(7, tokens * inputs)
    const got = await compute(x, [tokens, inputs], (graph, input) =>
      portableOps(graph, 'fp8').blockLinear(input, { weight }),
    )
    const rounded = roundRows(x, inputs)
    const values = Float32Array.from(kept, (code) => fromE4m3(code) * Math.fround(0.01))
    const want = Array.from(got, (_, k) => {
      const [row, column] = [Math.floor(k / outputs), k % outputs]
      const terms = Array.from({ length: inputs }, (_, i) => i)
      return terms.reduce(
        (sum, i) => sum + rounded[row * inputs + i]! * values[column * inputs + i]!,
        0,
      )
    })
    // The largest difference seen is 5.2e-7, of values up to 13.
    expectClose(got, want, 1e-5)
  })
})
