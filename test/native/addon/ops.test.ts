/**
 * Each fused operator, as a node of a graph, against its formula in float64 (the formulas stand in
 * native/include/fluxd/kernels.h). Tolerances are relative, with the largest error seen beside them.
 */
import { describe, expect, test } from 'vitest'
import type {
  HostTensorView,
  NativeDType,
} from '../../../src/engine/runtime/backends/native/addon.js'
import { createGraph, type Value } from '../../../src/engine/runtime/onnx/graph.js'
import { addon, device } from './kit.js'
import { fromBf16, fromE4m3, gaussian, quantizeRows, relativeError, toBf16 } from './numbers.js'

type Operand = HostTensorView & { readonly exact: ArrayLike<number> }
type Result = { readonly dtype: NativeDType; readonly data: ArrayBuffer }

const [rows, width, out] = [21, 70, 35]
let seed = 0

/** Random values as an operator gets them, and what they are exactly. */
function random(dtype: 'F32' | 'BF16', dims: readonly number[], spread = 1): Operand {
  const values = gaussian(
    dims.reduce((a, b) => a * b),
    ++seed,
    spread,
  )
  if (dtype === 'F32') return { dtype, dims, data: values, exact: values }
  const data = toBf16(values)
  return { dtype, dims, data, exact: fromBf16(data) }
}

/** What a node of this operator makes of the operands; undefined ones are left out. */
async function compute(
  op: string,
  operands: readonly (Operand | undefined)[],
  outputs: readonly NativeDType[],
  attributes = {},
): Promise<Result[]> {
  const graph = createGraph(op)
  const inputs: Record<string, HostTensorView> = {}
  const values = operands.map((operand, i) => {
    if (!operand) return '' as Value
    inputs[`x${i}`] = operand
    return graph.input(`x${i}`, operand.dtype, operand.dims)
  })
  const results = graph.nodes(op, values, outputs.length, { domain: 'fluxd', attributes })
  results.forEach((result, i) => {
    graph.output(
      `y${i}`,
      result,
      outputs[i]!,
      ['a', 'b'].slice(0, outputs[i] === 'F32' && i > 0 ? 1 : 2),
    )
  })
  const session = new addon.Session(device)
  await session.load(graph.encode(), { threads: 2, optimization: 'all' })
  const wanted = Object.fromEntries(outputs.map((_, i) => [`y${i}`, null]))
  const got = await session.run(inputs, wanted)
  await session.release()
  return outputs.map((_, i) => got[`y${i}`]!)
}

function valuesOf({ dtype, data }: Result): ArrayLike<number> {
  if (dtype === 'F32') return new Float32Array(data)
  if (dtype === 'BF16') return fromBf16(new Uint16Array(data))
  return Array.from(new Uint8Array(data), fromE4m3)
}

const dequantized = (codes: Result, scales: Result) => {
  const factors = new Float32Array(scales.data)
  const values = valuesOf(codes)
  return Array.from(
    values,
    (value, i) => value * factors[Math.floor(i / (values.length / factors.length))]!,
  )
}

/** The rows of two matrices, each behind the other's. */
const sideBySide = (left: ArrayLike<number>, right: ArrayLike<number>) =>
  Float32Array.from(
    Array.from({ length: rows }, (_, r) => [...rowOf(left, r), ...rowOf(right, r)]).flat(),
  )

const rowOf = (values: ArrayLike<number>, r: number) => {
  const count = values.length / rows
  return Array.from({ length: count }, (_, i) => values[r * count + i]!)
}

/** x·wᵀ + b */
function linear(x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>): number[] {
  return Array.from({ length: rows * out }, (_, at) => {
    const [r, o] = [Math.floor(at / out), at % out]
    let sum = b[o] ?? 0
    for (let i = 0; i < width; i++) sum += x[r * width + i]! * w[o * width + i]!
    return sum
  })
}

const gelu = (t: number) =>
  0.5 * t * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (t + 0.044715 * t ** 3)))

const dtypes = ['F32', 'BF16'] as const
const tolerance = { F32: 1e-6, BF16: 1e-2 }

describe.each(dtypes)('in %s', (dtype) => {
  // Observed: 1.3e-7, 1.8e-3.
  test.each([
    ['no epilogue', {}, (t: number) => t],
    ['GELU', { epilogue: 1 }, gelu],
  ])('Linear with %s', async (_, attributes, epilogue) => {
    const x = random(dtype, [rows, width])
    const w = random(dtype, [out, width], 0.2)
    const b = random(dtype, [out])
    const [y] = await compute('Linear', [x, w, b], [dtype], attributes)
    const want = linear(x.exact, w.exact, b.exact).map(epilogue)
    expect(relativeError(valuesOf(y!), want)).toBeLessThan(tolerance[dtype])
  })

  // Observed: 1.2e-7, 1.6e-3.
  test('Linear without bias, gated onto a residual', async () => {
    const x = random(dtype, [rows, width])
    const w = random(dtype, [out, width], 0.2)
    const gate = random('F32', [out])
    const residual = random(dtype, [rows, out])
    const [y] = await compute('Linear', [x, w, undefined, gate, residual], [dtype], { epilogue: 2 })
    const want = linear(x.exact, w.exact, []).map(
      (t, i) => residual.exact[i]! + gate.exact[i % out]! * t,
    )
    expect(relativeError(valuesOf(y!), want)).toBeLessThan(tolerance[dtype])
  })

  // Observed: 5e-8 and 1.6e-3 from its e4m3 operands, 3.6e-2 from what they stand for.
  test('Fp8Linear over quantised operands', async () => {
    const x = random(dtype, [rows, width])
    const w = random(dtype, [out, width], 0.2)
    const b = random(dtype, [out])
    const [x8, xScale] = await compute('QuantizeRows', [x], ['F8_E4M3', 'F32'])
    const [w8, wScale] = await compute('QuantizeRows', [w], ['F8_E4M3', 'F32'])
    const operand = (dtype: NativeDType, dims: readonly number[], { data }: Result): Operand => ({
      dtype,
      dims,
      data,
      exact: [],
    })
    const operands = [
      operand('F8_E4M3', [rows, width], x8!),
      operand('F32', [rows], xScale!),
      operand('F8_E4M3', [out, width], w8!),
      operand('F32', [out], wScale!),
      b,
    ]
    const [y] = await compute('Fp8Linear', operands, [dtype], { epilogue: 1 })
    const of = (a: ArrayLike<number>, c: ArrayLike<number>) => linear(a, c, b.exact).map(gelu)
    const rounded = of(dequantized(x8!, xScale!), dequantized(w8!, wScale!))
    expect(relativeError(valuesOf(y!), rounded)).toBeLessThan(tolerance[dtype])
    expect(relativeError(valuesOf(y!), of(x.exact, w.exact))).toBeLessThan(5e-2)
  })

  test('Linear behind other columns, which stay as they are', async () => {
    const [x, w, left] = [
      random(dtype, [rows, width]),
      random(dtype, [out, width], 0.1),
      random(dtype, [rows, 9]),
    ]
    const operands = [x, w, undefined, undefined, undefined, left]
    const [joined] = await compute('Linear', operands, [dtype], { epilogue: 1 })
    const [alone] = await compute('Linear', [x, w], [dtype], { epilogue: 1 })
    expect(valuesOf(joined!)).toEqual(sideBySide(left.exact, valuesOf(alone!)))
  })

  test('QuantizeRows of two tensors is that of their rows side by side', async () => {
    const [x, right] = [random(dtype, [rows, width]), random(dtype, [rows, 33], 3)]
    const [codes, scales] = await compute('QuantizeRows', [x, right], ['F8_E4M3', 'F32'])
    const want = quantizeRows(sideBySide(x.exact, right.exact), width + 33)
    expect(new Float32Array(scales!.data)).toEqual(want.scales)
    expect(new Uint8Array(codes!.data)).toEqual(want.codes)
  })

  test('QuantizeRows gives the nearest codes', async () => {
    const x = random(dtype, [rows, width])
    const [codes, scales] = await compute('QuantizeRows', [x], ['F8_E4M3', 'F32'])
    const want = quantizeRows(x.exact, width)
    expect(new Float32Array(scales!.data)).toEqual(want.scales)
    expect(new Uint8Array(codes!.data)).toEqual(want.codes)
  })

  // Observed: 7e-8, 1.6e-3; 2.5e-2 in e4m3.
  test('ModulatedNorm, and its e4m3 variant', async () => {
    const x = random(dtype, [rows, width], 3)
    const scale = random('F32', [width])
    const shift = random('F32', [width])
    const operands = [x, scale, shift]
    const want = Array.from({ length: rows }, (_, r) => {
      const row = Array.from({ length: width }, (_, i) => x.exact[r * width + i]!)
      const mean = row.reduce((a, b) => a + b) / width
      const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width
      return row.map(
        (value, i) =>
          ((value - mean) / Math.sqrt(variance + 1e-6)) * scale.exact[i]! + shift.exact[i]!,
      )
    }).flat()
    const [y] = await compute('ModulatedNorm', operands, [dtype])
    expect(relativeError(valuesOf(y!), want)).toBeLessThan(tolerance[dtype])
    const [codes, scales] = await compute('ModulatedNormFp8', operands, ['F8_E4M3', 'F32'])
    expect(relativeError(dequantized(codes!, scales!), want)).toBeLessThan(5e-2)
  })

  // Observed: 7e-8, 1.8e-3.
  test('QkNormRope of two streams, the first on top', async () => {
    const [heads, headDim] = [3, 8]
    const [size, first] = [heads * headDim, 5]
    const streams = [first, rows - first].map((count) => ({
      count,
      qkv: random(dtype, [count, 3 * size]),
      q: random(dtype, [headDim]),
      k: random(dtype, [headDim]),
    }))
    const cos = random('F32', [rows, headDim / 2])
    const sin = random('F32', [rows, headDim / 2])
    const operands = [cos, sin, ...streams.flatMap(({ qkv, q, k }) => [qkv, q, k])]
    const got = await compute('QkNormRope', operands, [dtype, dtype, dtype], { heads })

    const rotated = (part: 0 | 1, norm: 'q' | 'k') =>
      streams.flatMap((stream, s) =>
        Array.from({ length: stream.count * size }, (_, at) => {
          const [r, column] = [Math.floor(at / size), at % size]
          const start = (3 * r + part) * size + column - (column % headDim)
          const head = Array.from({ length: headDim }, (_, i) => stream.qkv.exact[start + i]!)
          const factor = 1 / Math.sqrt(head.reduce((sum, x) => sum + x * x, 0) / headDim + 1e-6)
          const normed = head.map((x, i) => x * factor * stream[norm].exact[i]!)
          const [i, j] = [column % headDim, Math.floor((column % headDim) / 2)]
          const angle = (s * first + r) * (headDim / 2) + j
          const [c, d] = [cos.exact[angle]!, sin.exact[angle]!]
          return i % 2 === 0
            ? normed[i]! * c - normed[i + 1]! * d
            : normed[i]! * c + normed[i - 1]! * d
        }),
      )
    const values = streams.flatMap(({ count, qkv }) =>
      Array.from({ length: count }, (_, r) =>
        Array.from({ length: size }, (_, i) => qkv.exact[(3 * r + 2) * size + i]!),
      ).flat(),
    )
    expect(relativeError(valuesOf(got[0]!), rotated(0, 'q'))).toBeLessThan(tolerance[dtype])
    expect(relativeError(valuesOf(got[1]!), rotated(1, 'k'))).toBeLessThan(tolerance[dtype])
    expect(Array.from(valuesOf(got[2]!))).toEqual(values)
  })
})

describe('an operator names the operand that does not fit', () => {
  const x = random('F32', [rows, width])
  const w = random('F32', [out, width])
  test.each([
    [
      'Linear',
      [x, random('F32', [out, 7])],
      1,
      /expected weight of shape \[35, 70\] but it is \[35, 7\]/,
    ],
    ['Linear', [x, w, random('F32', [3])], 1, /expected bias of shape \[35\] but it is \[3\]/],
    [
      'Linear',
      [random('F32', [2, rows, width]), w],
      1,
      /expected x of rank 2 but it is \[2, 21, 70\]/,
    ],
    ['ModulatedNorm', [x, random('F32', [3]), random('F32', [width])], 1, /scale of shape \[70\]/],
    [
      'QkNormRope',
      [
        random('F32', [rows, 4]),
        random('F32', [rows, 4]),
        random('F32', [9, 24]),
        random('F32', [8]),
        random('F32', [8]),
      ],
      3,
      /expected qkv of 21 rows, one per angle/,
    ],
    [
      'Linear',
      [x, w, undefined, undefined, undefined, random('F32', [3, 4])],
      1,
      /expected left of shape \[21, 4\] but it is \[3, 4\]/,
    ],
  ] as const)('%s', async (op, operands, count, message) => {
    await expect(compute(op, operands, new Array(count).fill('F32'))).rejects.toThrow(message)
  })

  test('rows that have no partner', async () => {
    const operands = [x, random('F32', [3, 4])]
    await expect(compute('QuantizeRows', operands, ['F8_E4M3', 'F32'])).rejects.toThrow(
      /expected right of shape \[21, 4\] but it is \[3, 4\]/,
    )
  })

  test('an epilogue without its operands', async () => {
    await expect(compute('Linear', [x, w], ['F32'], { epilogue: 2 })).rejects.toThrow(
      /expected gate and residual for a gated epilogue/,
    )
  })
})
