/**
 * Dialect `cuda`: operators for which ONNX Runtime's own CUDA provider has bfloat16 kernels. Inside
 * a graph all values are bfloat16, except for the rotation by angles and for fp8's scales, which
 * are float32; inputs and outputs are float32, because the JavaScript binding has no bfloat16.
 * Networks over images have no such kernels and are written in `portable`.
 */

import type { Graph, Value } from '../onnx/graph.js'
import type { Layer, TensorSource } from '../weights/weights.js'
import { cast, widen } from './dequantize.js'
import { roundRowsToE4m3 } from './fp8.js'
import type { AttentionOptions, Columns, Epilogue, Ops, Precision } from './ops.js'
import { portableOps } from './portable.js'

/**
 * The attention operator: `flash` is ONNX's Attention, a FlashAttention-2 kernel inside the
 * provider; `cudnn` is com.microsoft's MultiHeadAttention, which needs cuDNN.
 */
export type AttentionKernel = 'flash' | 'cudnn'

export type CudaOptions = {
  readonly precision: Precision
  readonly attention: AttentionKernel
  /** Of the values inside; float32 is for tests without a GPU. */
  readonly dtype: 'F32' | 'BF16'
}

const microsoft = 'com.microsoft'

export function cudaOps(outer: Graph, { precision, attention: kernel, dtype }: CudaOptions): Ops {
  const { graph, narrow, float } = withBorder(outer, dtype)
  const { node } = graph

  function weight(source: TensorSource): Value {
    if (source.dtype === dtype) return graph.weight(source)
    return narrow(widen(outer, source))
  }

  // Gemm would run a second product only to spread the bias over the rows.
  function product(x: Value, matrix: Value, { bias }: Layer): Value {
    const y = node('FusedMatMul', [x, matrix], { domain: microsoft, attributes: { transB: 1 } })
    return bias ? node('Add', [y, weight(bias)]) : y
  }

  const portable = portableOps(graph, precision, {
    weight,
    product,
    float,
    narrow,
    round: (x) => narrow(roundRowsToE4m3(outer, float(x))),
  })

  function blockLinear(x: Columns, layer: Layer, epilogue?: Epilogue): Value {
    if (epilogue?.kind !== 'gelu' || !layer.bias) return portable.blockLinear(x, layer, epilogue)
    // Adds the bias on its way: one pass over the widest values of a block instead of two.
    const y = portable.blockLinear(x, { weight: layer.weight })
    return node('FastGelu', [y, weight(layer.bias)], { domain: microsoft })
  }

  function embedding(table: TensorSource, ids: Value): Value {
    // Gather has no fp8; of other dtypes only the rows are converted.
    if (table.dtype === dtype || table.dtype === 'F8_E4M3')
      return node('Gather', [weight(table), ids])
    return cast(graph, node('Gather', [graph.weight(table), ids]), dtype)
  }

  const batched = (x: Value) => node('Unsqueeze', [x, graph.int64s([0])])

  function flash(q: Value, k: Value, v: Value, options: AttentionOptions): Value {
    const { heads, scale, bias, causal } = options
    const operands = [...[q, k, v].map(batched), ...(bias ? [bias] : [])]
    const mixed = node('Attention', operands, {
      attributes: {
        q_num_heads: heads,
        kv_num_heads: heads,
        scale: { float: scale },
        is_causal: causal ? 1 : 0,
      },
    })
    return node('Squeeze', [mixed, graph.int64s([0])])
  }

  return {
    ...portable,
    blockLinear,
    embedding,
    attention: kernel === 'flash' ? flash : portable.attention,
  }
}

/** The graph with float32 inputs and outputs, and `dtype` inside. */
function withBorder(outer: Graph, dtype: CudaOptions['dtype']) {
  // The float32 value of each inner value, and the reverse.
  const floats = new Map<Value, Value>()
  const narrowed = new Map<Value, Value>()

  function narrow(x: Value): Value {
    if (dtype === 'F32') return x
    const y = narrowed.get(x) ?? cast(outer, x, dtype)
    narrowed.set(x, y)
    floats.set(y, x)
    return y
  }

  function float(x: Value): Value {
    if (dtype === 'F32') return x
    const y = floats.get(x) ?? cast(outer, x, 'F32')
    floats.set(x, y)
    return y
  }

  const graph: Graph = {
    ...outer,
    input(name, type, dims) {
      const value = outer.input(name, type, dims)
      return type === 'F32' ? narrow(value) : value
    },
    output: (name, value, type, dims) =>
      outer.output(name, type === 'F32' ? float(value) : value, type, dims),
    debugOutput: (name, value) => outer.debugOutput(name, float(value)),
    floats: (values, dims) => narrow(outer.floats(values, dims)),
  }
  return { graph, narrow, float }
}
