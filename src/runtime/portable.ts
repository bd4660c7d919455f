/**
 * Dialect `portable`: float32 with operators for which ONNX Runtime's CPU provider has fused
 * kernels. Half-precision weights are widened by a Cast next to their use.
 */
import { absent, type Graph, type Value } from './graph.js'
import type { AttentionOptions, ConvOptions, Ops, RopeTables } from './ops.js'
import type { Layer, TensorSource } from './weights.js'

const fluxEpsilon = 1e-6
const float32 = 1
const microsoft = 'com.microsoft'
const lastIndex = Number.MAX_SAFE_INTEGER

export function portableOps(graph: Graph): Ops {
  const { node, nodes, int64s } = graph
  const widen = (value: Value) => node('Cast', [value], { attributes: { to: float32 } })
  const weight = (slice: TensorSource) =>
    slice.dtype === 'F32' ? graph.weight(slice) : widen(graph.weight(slice))
  const reshape = (x: Value, dims: readonly number[]) => node('Reshape', [x, int64s(dims)])
  const mul = (a: Value, b: Value) => node('Mul', [a, b])
  const add = (a: Value, b: Value) => node('Add', [a, b])
  const bias = (layer: Layer) => (layer.bias ? [weight(layer.bias)] : [])
  const epsilonOf = (epsilon: number) => ({ epsilon: { float: epsilon }, axis: -1 })

  function linear(x: Value, layer: Layer): Value {
    return node('Gemm', [x, weight(layer.weight), ...bias(layer)], { attributes: { transB: 1 } })
  }

  function embedding(table: TensorSource, ids: Value): Value {
    // Rows are picked before they are widened, so the table stays in its file.
    const rows = node('Gather', [graph.weight(table), ids], { attributes: { axis: 0 } })
    return table.dtype === 'F32' ? rows : widen(rows)
  }

  const layerNorm = (x: Value, scale: Value, shift: Value, epsilon: number) =>
    node('LayerNormalization', [x, scale, shift], { attributes: epsilonOf(epsilon) })

  const rmsNorm = (x: Value, scale: TensorSource, epsilon: number) =>
    node('SimplifiedLayerNormalization', [x, weight(scale)], { attributes: epsilonOf(epsilon) })

  function headNorm(x: Value, scale: TensorSource, heads: number): Value {
    const headDim = scale.shape[0]!
    const perHead = reshape(x, [-1, heads, headDim])
    return reshape(rmsNorm(perHead, scale, fluxEpsilon), [-1, heads * headDim])
  }

  const batched = (x: Value) => node('Unsqueeze', [x, int64s([0])])
  const unbatched = (x: Value) => node('Squeeze', [x, int64s([0])])

  function rope(x: Value, { cos, sin }: RopeTables, heads: number): Value {
    // A one-element position is the offset of the first row.
    const rotated = node('RotaryEmbedding', [batched(x), int64s([0]), cos, sin], {
      domain: microsoft,
      attributes: { interleaved: 1, num_heads: heads },
    })
    return unbatched(rotated)
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
    const shape = node('Shape', [x])
    const grouped = reshape(x, [1, groups, -1])
    const normed = node('InstanceNormalization', [grouped, ones, zeros], {
      attributes: { epsilon: { float: fluxEpsilon } },
    })
    const perChannel = (slice: TensorSource) => reshape(weight(slice), [slice.shape[0]!, 1, 1])
    const scaled = mul(node('Reshape', [normed, shape]), perChannel(layer.weight))
    return layer.bias ? add(scaled, perChannel(layer.bias)) : scaled
  }

  const quickGelu = (x: Value, alpha: number) =>
    node('QuickGelu', [x], { domain: microsoft, attributes: { alpha: { float: alpha } } })

  return {
    graph,
    linear,
    embedding,
    weight,
    modulatedNorm: (x, scale, shift) => layerNorm(x, scale, shift, fluxEpsilon),
    layerNorm: (x, layer, epsilon) =>
      layerNorm(x, weight(layer.weight), layer.bias ? weight(layer.bias) : absent, epsilon),
    rmsNorm,
    headNorm,
    rope,
    attention,
    gatedAdd: (x, gate, change) => add(x, mul(change, gate)),
    geluTanh: (x) => node('FastGelu', [x], { domain: microsoft }),
    quickGelu: (x) => quickGelu(x, 1.702),
    // x·σ(x) is QuickGelu with alpha 1.
    silu: (x) => quickGelu(x, 1),
    add,
    mul,
    reshape,
    transpose: (x, order) => node('Transpose', [x], { attributes: { perm: order } }),
    concat: (parts, axis) => node('Concat', parts, { attributes: { axis } }),
    split: (x, count, axis) =>
      nodes('Split', [x], count, { attributes: { axis, num_outputs: count } }),
    splitAfter,
    conv,
    groupNorm,
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
