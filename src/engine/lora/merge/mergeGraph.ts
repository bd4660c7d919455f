/**
 * The graph that merges: the base's tensors and what LoRAs add to them, by the formulas of
 * adapter.ts. Initializers point into the checkpoint and the LoRA files.
 */

import type { TensorSlice } from '../../../safetensors/read.js'
import { createGraph, type Graph, type Value } from '../../runtime/onnx/graph.js'
import { cast, widen } from '../../runtime/ops/dequantize.js'
import type { Change, Delta, Dora, Factor } from '../format/adapter.js'

/** `bf16` and `f16` round to values of those dtypes, nearest with ties to even. */
export type Rounding = 'float32' | 'bf16' | 'f16'

/** A tensor of the base and what each adapter, by index, adds to it. */
export type MergeTarget = {
  readonly name: string
  readonly rounding: Rounding
  readonly base: TensorSlice
  /** Sparse: an adapter that does not touch the tensor has no entry. */
  readonly deltas: readonly (readonly Delta[])[]
  /** The base tensors that norms over the columns of a fused layer go on through, by name. */
  readonly neighbours: ReadonlyMap<string, TensorSlice>
}

/** scales [adapters] → every target's merged tensor, under its name. */
export function mergeGraph(targets: readonly MergeTarget[], count: number): Uint8Array {
  const graph = createGraph('merge')
  const scales = graph.input('scales', 'F32', [count])
  const scaleOf = (i: number) => graph.node('Gather', [scales, graph.int64s([i])])
  for (const { name, base, deltas, rounding, neighbours } of targets) {
    const pristine = read(graph, base, 'base')
    let merged = pristine
    deltas.forEach((own, i) => {
      for (const delta of own) {
        const files = `lora${i}`
        merged = addDelta({ graph, files, neighbours, pristine }, merged, delta, scaleOf(i))
      }
    })
    graph.output(name, rounded(graph, merged, rounding), 'F32', base.shape)
  }
  return graph.encode()
}

const halves = { bf16: 'BF16', f16: 'F16' } as const

const rounded = (graph: Graph, x: Value, rounding: Rounding) =>
  rounding === 'float32' ? x : cast(graph, cast(graph, x, halves[rounding]), 'F32')

// Two files may use one name, so the file is part of an initializer's name here.
const read = (graph: Graph, slice: TensorSlice, file: string): Value =>
  widen(graph, { ...slice, name: `${file}/${slice.name}` })

type Scope = {
  readonly graph: Graph
  /** The prefix for the tensors of the deltas' adapter. */
  readonly files: string
  readonly neighbours: MergeTarget['neighbours']
  /** The base tensor as float32. */
  readonly pristine: Value
}

/** sum + scale·Δ; scale is [1]. */
function addDelta(scope: Scope, sum: Value, delta: Delta, scale: Value): Value {
  const { graph } = scope
  if (delta.kind === 'dora') {
    const difference = graph.node('Sub', [doraWeight(scope, delta), scope.pristine])
    return graph.node('Add', [sum, graph.node('Mul', [difference, scale])])
  }
  return addChange(scope, sum, delta, scale)
}

function addChange({ graph, files }: Scope, sum: Value, change: Change, scale: Value): Value {
  const mul = (a: Value, b: Value) => graph.node('Mul', [a, b])
  const add = (a: Value, b: Value) => graph.node('Add', [a, b])
  const load = (slice: TensorSlice) => read(graph, slice, files)
  const product = (factor: Factor) =>
    factor.length === 1 ? load(factor[0]) : graph.node('MatMul', [load(factor[0]), load(factor[1])])
  const strength = mul(scale, graph.floats([change.factor]))
  switch (change.kind) {
    case 'lowRank': {
      // The smaller factor is scaled; one Gemm multiplies and adds.
      const down = mul(load(change.down), strength)
      return graph.node('Gemm', [load(change.up), down, sum])
    }
    case 'loha':
      return add(sum, mul(mul(product(change.first), product(change.second)), strength))
    case 'lokr': {
      const whole = kronecker(graph, product(change.first), product(change.second), change)
      return add(sum, mul(whole, strength))
    }
    case 'full':
      return add(sum, mul(load(change.values), strength))
    default:
      return change satisfies never
  }
}

/** Rows of the Kronecker product: [a, b] ⊗ [c, d] → [a·c, b·d]. */
function kronecker(
  graph: Graph,
  first: Value,
  second: Value,
  change: Extract<Change, { kind: 'lokr' }>,
): Value {
  const { int64s, node } = graph
  const [a, b] = sizeOf(change.first)
  const [c, d] = sizeOf(change.second)
  const blocks = node('Mul', [
    node('Reshape', [first, int64s([a, 1, b, 1])]),
    node('Reshape', [second, int64s([1, c, 1, d])]),
  ])
  const whole = node('Reshape', [blocks, int64s([a * c, b * d])])
  const { begin, end } = change.rows
  return node('Slice', [whole, int64s([begin]), int64s([end]), int64s([0])])
}

const sizeOf = (factor: Factor): readonly [number, number] => [
  factor[0].shape[0]!,
  factor[factor.length - 1]!.shape[1]!,
]

// Keeps 0 / 0 from becoming NaN where a row of the weight is zero.
const tiny = 1e-30

/** magnitude ⊙ V / ‖V‖, where V is the base tensor with all changes at scale 1. */
function doraWeight(scope: Scope, dora: Dora): Value {
  const { graph, files } = scope
  const direction = directionOf(scope, scope.pristine, dora.changes)
  const norm = normOf(scope, direction, dora)
  const shape = dora.normOver === 'rows' ? [-1, 1] : [1, -1]
  const lengths = graph.node('Reshape', [read(graph, dora.magnitude, files), graph.int64s(shape)])
  const factors = graph.node('Div', [lengths, graph.node('Max', [norm, graph.floats([tiny])])])
  return graph.node('Mul', [direction, factors])
}

const directionOf = (scope: Scope, base: Value, changes: readonly Change[]) =>
  changes.reduce((sum, change) => addChange(scope, sum, change, scope.graph.floats([1])), base)

/** ‖V‖ over each row, or over each column of this and the layer's other tensors. */
function normOf(scope: Scope, direction: Value, { normOver, others }: Dora): Value {
  const { graph, neighbours } = scope
  const axis = graph.int64s([normOver === 'rows' ? 1 : 0])
  const squares = (value: Value) =>
    graph.node('ReduceSumSquare', [value, axis], { attributes: { keepdims: 1 } })
  const sum = others.reduce((sum, { tensor, changes }) => {
    const base = read(graph, neighbours.get(tensor)!, 'base')
    return graph.node('Add', [sum, squares(directionOf(scope, base, changes))])
  }, squares(direction))
  return graph.node('Sqrt', [sum])
}
