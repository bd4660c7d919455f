/**
 * Dialect `portable`: float32 with operators for which ONNX Runtime's CPU provider has fused
 * kernels. Weights of other dtypes are widened by a Cast next to their use.
 */

import { absent, type Graph, type Value } from '../onnx/graph.js'
import type { Layer, TensorSource } from '../weights/weights.js'
import { cast, widen } from './dequantize.js'
import { roundRowsToE4m3 } from './fp8.js'
import type {
  AttentionOptions,
  Columns,
  ConvOptions,
  Epilogue,
  Ops,
  Precision,
  Qkv,
  QkvStream,
  RopeTables,
} from './ops.js'

const fluxEpsilon = 1e-6
const microsoft = 'com.microsoft'
const lastIndex = Number.MAX_SAFE_INTEGER

/** What a dialect of another dtype overrides. */
export type Numbers = {
  /** A weight in the dialect's dtype. */
  readonly weight: (source: TensorSource) => Value
  /** x·Wᵀ + b */
  readonly product: (x: Value, matrix: Value, layer: Layer) => Value
  /** x with its rows rounded to e4m3. */
  readonly round: (x: Value) => Value
  /** x in float32, which angles need, and back. */
  readonly float: (x: Value) => Value
  readonly narrow: (x: Value) => Value
}

export function portableOps(
  graph: Graph,
  precision: Precision = 'bf16',
  { weight, product, round, float, narrow }: Numbers = floatNumbers(graph),
): Ops {
  const { node, nodes, int64s } = graph
  const reshape = (x: Value, dims: readonly number[]) => node('Reshape', [x, int64s(dims)])
  const reshapeLike = (x: Value, model: Value) => node('Reshape', [x, node('Shape', [model])])
  const mul = (a: Value, b: Value) => node('Mul', [a, b])
  const add = (a: Value, b: Value) => node('Add', [a, b])
  const geluTanh = (x: Value) => node('FastGelu', [x], { domain: microsoft })
  const bias = (layer: Layer) => (layer.bias ? [weight(layer.bias)] : [])
  const epsilonOf = (epsilon: number) => ({ epsilon: { float: epsilon }, axis: -1 })

  const linear = (x: Value, layer: Layer) => product(x, weight(layer.weight), layer)

  // q, k and v, or q, k, v and the feed-forward layer, read one input.
  const roundedInputs = new Map<Value, Value>()

  function blockLinear(input: Columns, layer: Layer, epilogue?: Epilogue): Value {
    const x = typeof input === 'string' ? input : concat(input, 1)
    const y = precision === 'fp8' ? fp8Linear(x, layer) : linear(x, layer)
    if (!epilogue) return y
    return epilogue.kind === 'gelu' ? geluTanh(y) : add(epilogue.residual, mul(y, epilogue.gate))
  }

  function fp8Linear(x: Value, layer: Layer): Value {
    const input = roundedInputs.get(x) ?? round(x)
    roundedInputs.set(x, input)
    const matrix = weight(layer.weight)
    // A checkpoint that was quantised before keeps its own codes.
    const isRounded = layer.weight.dtype === 'F8_E4M3'
    return product(input, isRounded ? matrix : round(matrix), layer)
  }

  function embedding(table: TensorSource, ids: Value): Value {
    const pick = (rows: Value) => node('Gather', [rows, ids], { attributes: { axis: 0 } })
    // Gather has no fp8; of other dtypes only the gathered rows are widened, not the table.
    if (table.dtype === 'F32' || table.dtype === 'F8_E4M3') return pick(weight(table))
    return cast(graph, pick(graph.weight(table)), 'F32')
  }

  const concat = (parts: readonly Value[], axis: number) =>
    parts.length === 1 ? parts[0]! : node('Concat', parts, { attributes: { axis } })

  const layerNorm = (x: Value, scale: Value, shift: Value, epsilon: number) =>
    node('LayerNormalization', [x, scale, shift], { attributes: epsilonOf(epsilon) })

  const rmsNorm = (x: Value, scale: TensorSource, epsilon: number) =>
    node('SimplifiedLayerNormalization', [x, weight(scale)], { attributes: epsilonOf(epsilon) })

  function headNorm(x: Value, scale: TensorSource, heads: number): Value {
    const headDim = scale.shape[0]!
    const perHead = reshape(x, [-1, heads, headDim])
    return reshape(rmsNorm(perHead, scale, fluxEpsilon), [-1, heads * headDim])
  }

  function rotatedQkv(streams: readonly QkvStream[], tables: RopeTables, heads: number): Qkv {
    const projected = streams.map(({ x, q, k, v, normQ, normK }) => ({
      q: headNorm(blockLinear(x, q), normQ, heads),
      k: headNorm(blockLinear(x, k), normK, heads),
      v: blockLinear(x, v),
    }))
    const join = (part: keyof Qkv) =>
      concat(
        projected.map((each) => each[part]),
        0,
      )
    return { q: rope(join('q'), tables, heads), k: rope(join('k'), tables, heads), v: join('v') }
  }

  const batched = (x: Value) => node('Unsqueeze', [x, int64s([0])])
  const unbatched = (x: Value) => node('Squeeze', [x, int64s([0])])

  function rope(x: Value, { cos, sin }: RopeTables, heads: number): Value {
    // A one-element position is the offset of the first row.
    const operands = [batched(float(x)), int64s([0]), float(cos), float(sin)]
    const rotated = node('RotaryEmbedding', operands, {
      domain: microsoft,
      attributes: { interleaved: 1, num_heads: heads },
    })
    return narrow(unbatched(rotated))
  }

  function attention(q: Value, k: Value, v: Value, options: AttentionOptions): Value {
    const operands = [batched(q), batched(k), batched(v)]
    if (options.bias) operands.push(absent, absent, options.bias)
    const mixed = node('MultiHeadAttention', operands, {
      domain: microsoft,
      attributes: {
        num_heads: options.heads,
        scale: { float: options.scale },
        unidirectional: options.causal ? 1 : 0,
      },
    })
    return unbatched(mixed)
  }

  function splitAfter(x: Value, head: Value): readonly [Value, Value] {
    const rows = node('Shape', [head], { attributes: { start: 0, end: 1 } })
    const axis = int64s([0])
    return [
      node('Slice', [x, axis, rows, axis]),
      node('Slice', [x, rows, int64s([lastIndex]), axis]),
    ]
  }

  const conv = (x: Value, layer: Layer, { stride, pads }: ConvOptions) =>
    node('Conv', [x, weight(layer.weight), ...bias(layer)], {
      attributes: { strides: [stride, stride], pads },
    })

  function groupNorm(x: Value, layer: Layer, groups: number): Value {
    // The provider has no group norm; an instance norm over [1, groups, rest] has its statistics.
    const ones = graph.floats(new Array(groups).fill(1))
    const zeros = graph.floats(new Array(groups).fill(0))
    const grouped = reshape(x, [1, groups, -1])
    const normed = node('InstanceNormalization', [grouped, ones, zeros], {
      attributes: { epsilon: { float: fluxEpsilon } },
    })
    const perChannel = (slice: TensorSource) => reshape(weight(slice), [slice.shape[0]!, 1, 1])
    const scaled = mul(reshapeLike(normed, x), perChannel(layer.weight))
    return layer.bias ? add(scaled, perChannel(layer.bias)) : scaled
  }

  const quickGelu = (x: Value, alpha: number) =>
    node('QuickGelu', [x], { domain: microsoft, attributes: { alpha: { float: alpha } } })
  // x·σ(x) is QuickGelu with alpha 1.
  const silu = (x: Value) => quickGelu(x, 1)

  return {
    graph,
    linear,
    blockLinear,
    embedding,
    weight,
    modulatedNorm: (x, scale, shift) => layerNorm(x, scale, shift, fluxEpsilon),
    layerNorm: (x, layer, epsilon) =>
      layerNorm(x, weight(layer.weight), layer.bias ? weight(layer.bias) : absent, epsilon),
    rmsNorm,
    rotatedQkv,
    attention,
    gelu: (x) => node('Gelu', [x], { domain: microsoft }),
    geluTanh,
    quickGelu: (x) => quickGelu(x, 1.702),
    silu,
    add,
    mul,
    reshape,
    reshapeLike,
    transpose: (x, order) => node('Transpose', [x], { attributes: { perm: order } }),
    concat,
    split: (x, count, axis) =>
      nodes('Split', [x], count, { attributes: { axis, num_outputs: count } }),
    splitAfter,
    conv,
    groupNorm,
    groupNormSilu: (x, layer, groups) => silu(groupNorm(x, layer, groups)),
    upsample: (x) =>
      node('Resize', [x, absent, graph.floats([1, 1, 2, 2])], {
        attributes: {
          mode: 'nearest',
          coordinate_transformation_mode: 'asymmetric',
          nearest_mode: 'floor',
        },
      }),
  }
}

/** Numbers of a dialect whose weights are all that differs: float32 ones by default. */
export function floatNumbers(
  graph: Graph,
  weight: Numbers['weight'] = (source) => widen(graph, source),
): Numbers {
  return {
    weight,
    product: (x, matrix, { bias }) =>
      graph.node('Gemm', [x, matrix, ...(bias ? [weight(bias)] : [])], {
        attributes: { transB: 1 },
      }),
    round: (x) => roundRowsToE4m3(graph, x),
    float: (x) => x,
    narrow: (x) => x,
  }
}
