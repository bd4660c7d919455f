/** Values of two dtypes in one graph: float32 inputs and outputs, another dtype inside. */
import type { Graph, Value } from '../onnx/graph.js'
import { cast } from './dequantize.js'

/**
 * Records which values have the inner dtype; all others are float32. A conversion is at most one
 * cast, and none where the value exists in the other dtype already.
 */
export function innerValues(graph: Graph, dtype: 'F32' | 'F16' | 'BF16') {
  const known = new Set<Value>()
  const narrowed = new Map<Value, Value>()
  const widened = new Map<Value, Value>()
  const isInner = (x: Value) => known.has(x)
  const inner = (x: Value) => {
    known.add(x)
    return x
  }
  return {
    isInner,
    inner,
    /** x in the dtype inside. */
    narrow(x: Value) {
      if (isInner(x)) return x
      const y = narrowed.get(x) ?? (dtype === 'F32' ? x : cast(graph, x, dtype))
      narrowed.set(x, y)
      return inner(y)
    },
    /** x in float32; narrowed again it is x. */
    widen(x: Value) {
      if (!isInner(x) || dtype === 'F32') return x
      const y = widened.get(x) ?? cast(graph, x, 'F32')
      widened.set(x, y)
      narrowed.set(y, x)
      return y
    },
  }
}
