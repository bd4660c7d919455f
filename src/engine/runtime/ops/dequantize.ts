/** Stored weights as float32 values of a graph, for every dtype of a file. */
import type { Graph, Value } from '../onnx/graph.js'
import { onnxType } from '../onnx/proto.js'
import type { TensorSource } from '../weights/weights.js'

/** The tensor in float32; fp8 values are multiplied by the scale that goes with them. */
export function widen(graph: Graph, source: TensorSource): Value {
  const stored = graph.weight(source)
  if (source.dtype === 'F32') return stored
  const values = cast(graph, stored, 'F32')
  if (!('scale' in source) || source.scale === undefined) return values
  return graph.node('Mul', [values, graph.floats([source.scale])])
}

/** x in another dtype; values too large for an fp8 dtype become its largest value. */
export const cast = (graph: Graph, x: Value, dtype: keyof typeof onnxType): Value =>
  graph.node('Cast', [x], { attributes: { to: onnxType[dtype] } })
