import { describe, expect, test } from 'vitest'
import {
  packLatents,
  ropeTables,
  tokenGrid,
  unpackLatents,
} from '../../../src/engine/pipeline/latents.js'
import { expectClose, goldenCase } from '../../goldens.js'

describe('packing', () => {
  const rows = 2
  const cols = 3
  const latents = Float32Array.from({ length: 16 * 4 * rows * cols }, (_, i) => i)
  const at = (channel: number, y: number, x: number) =>
    latents[(channel * 2 * rows + y) * 2 * cols + x]

  test('a token holds the 2×2 latents of every channel, channel first', () => {
    const packed = packLatents(latents, rows, cols)
    const token = packed.subarray((1 * cols + 2) * 64, (1 * cols + 3) * 64)
    const square = (channel: number) => [
      at(channel, 2, 4),
      at(channel, 2, 5),
      at(channel, 3, 4),
      at(channel, 3, 5),
    ]
    expect(Array.from(token.subarray(0, 8))).toEqual([...square(0), ...square(1)])
    expect(Array.from(token.subarray(60))).toEqual(square(15))
  })

  test('unpacking is its inverse', () => {
    expect(unpackLatents(packLatents(latents, rows, cols), rows, cols)).toEqual(latents)
  })

  test('an image of 1344×768 has 48 rows of 84 tokens', () => {
    expect(tokenGrid({ width: 1344, height: 768 })).toEqual({ tokenRows: 48, tokenCols: 84 })
  })
})

describe.each(['rope', 'rope_full_axes'])('%s', (id) => {
  const { params, inputs, outputs } = goldenCase(id)
  const tables = ropeTables(
    params['txt_len'],
    params['grid_rows'],
    params['grid_cols'],
    params['axes'],
  )

  test.each(['cos', 'sin'] as const)('%s equals the reference', (name) => {
    const want = outputs[name]!
    const pairs = want.shape[1]!
    const rows = inputs['rows']?.data
    const got = rows
      ? Array.from(rows).flatMap((row) =>
          Array.from(tables[name].subarray(row * pairs, (row + 1) * pairs)),
        )
      : tables[name]
    expectClose(got, want.data, want.atol!)
  })

  test('text is not rotated', () => {
    const text = params['txt_len'] * outputs['cos']!.shape[1]!
    expect(tables.cos.subarray(0, text).every((value) => value === 1)).toBe(true)
    expect(tables.sin.subarray(0, text).every((value) => value === 0)).toBe(true)
  })
})
