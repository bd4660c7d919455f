/**
 * fp8 without fp8 units: values are rounded to e4m3 and widened again, so that every machine
 * computes what a GPU's fp8 layers do, except for the order of their sums. Each row has a scale of
 * its own, which puts its largest value at the end of e4m3's range: an output row of a weight, or a
 * token of an activation, measured in every run. Recipe: torchao, PerRow.
 */
import type { Graph, Value } from '../onnx/graph.js'
import { cast } from './dequantize.js'

// The largest value of e4m3 (float8_e4m3fn: no infinity).
const maxE4m3 = 448

// Keeps 0 / 0 from becoming NaN in a row of zeros.
const tiny = 1e-30

/** x [N, D] with each row rounded to e4m3, to nearest with ties to even, in float32. */
export function roundRowsToE4m3(graph: Graph, x: Value): Value {
  const { node, floats } = graph
  const amax = node('ReduceMax', [node('Abs', [x]), graph.int64s([-1])], {
    attributes: { keepdims: 1 },
  })
  const scale = node('Div', [node('Max', [amax, floats([tiny])]), floats([maxE4m3])])
  const codes = cast(graph, node('Div', [x, scale]), 'F8_E4M3')
  return node('Mul', [cast(graph, codes, 'F32'), scale])
}
