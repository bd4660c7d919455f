/**
 * Dialect `fused`: a transformer's blocks as few, large operators of our addon (domain `fluxd`,
 * formulas in native/include/fluxd/kernels.h), over weights that sessions share. With bfloat16, the
 * values inside the blocks and the weights of all linear layers have that dtype; all else is
 * float32: inputs and outputs, modulation, angles, and networks without blocks. Networks over
 * images use the dialect of vae.ts.
 */

import { absent, type Graph, scaleOf, type Value } from '../onnx/graph.js'
import type { Layer, TensorSource } from '../weights/weights.js'
import { type AttentionKernel, cudaOps } from './cuda.js'
import { innerValues } from './mixedPrecision.js'
import type {
  AttentionOptions,
  Columns,
  Epilogue,
  Ops,
  Precision,
  Qkv,
  QkvStream,
  RopeTables,
} from './ops.js'
import { portableOps } from './portable.js'

export type FusedOptions = {
  /** Of the values inside the blocks and of weights; float32 is for tests without a GPU. */
  readonly dtype: 'F32' | 'BF16'
  readonly precision: Precision
  /** The attention operator; `float32` is the only one on the CPU. */
  readonly attention: AttentionKernel | 'float32'
}

type Rows = { readonly codes: Value; readonly scales: Value }

const toRows = ([codes, scales]: readonly Value[]): Rows => ({ codes: codes!, scales: scales! })

// FLUXD_EPILOGUE_* of kernels.h.
const epilogueCodes = { none: 0, gelu: 1, gated: 2 } as const

export function fusedOps(graph: Graph, options: FusedOptions): Ops {
  const { dtype, precision, attention: kernel } = options
  const { shared } = graph
  const { isInner, inner, narrow, widen } = innerValues(graph, dtype)
  // Operators that only move values take both dtypes; all others compute in float32.
  const moving = portableOps(graph)
  const portable = portableOps({
    ...graph,
    node: (op, inputs, options) => graph.node(op, inputs.map(widen), options),
    nodes: (op, inputs, count, options) => graph.nodes(op, inputs.map(widen), count, options),
    output: (name, value, ...type) => graph.output(name, widen(value), ...type),
    debugOutput: (name, value) => graph.debugOutput(name, widen(value)),
  })
  const fluxd = (op: string, inputs: readonly Value[], attributes = {}) =>
    graph.node(op, inputs, { domain: 'fluxd', attributes })
  const manyOf = (op: string, inputs: readonly Value[], count: number, attributes = {}) =>
    graph.nodes(op, inputs, count, { domain: 'fluxd', attributes })

  const concat = (parts: readonly Value[], axis: number) =>
    parts.some(isInner) ? inner(moving.concat(parts.map(narrow), axis)) : moving.concat(parts, axis)

  const biasOf = ({ bias }: Layer) => (bias ? shared([bias], dtype) : absent)
  const linear = (x: Value, layer: Layer) =>
    widen(inner(fluxd('Linear', [narrow(x), shared([layer.weight], dtype), biasOf(layer)])))

  // The operands of each normed value: fp8 computes it again, in another dtype.
  const norms = new Map<Value, readonly Value[]>()

  function modulatedNorm(x: Value, scale: Value, shift: Value): Value {
    const operands = [narrow(x), scale, shift]
    const normed = inner(fluxd('ModulatedNorm', operands))
    norms.set(normed, operands)
    return normed
  }

  // q, k and v, or q, k, v and the feed-forward layer, read one input.
  const quantized = new Map<Value, Rows>()

  function quantize(x: Columns): Rows {
    if (typeof x !== 'string') return quantizeRows(x)
    const known = quantized.get(x)
    if (known) return known
    const norm = norms.get(x)
    const rows = norm ? toRows(manyOf('ModulatedNormFp8', norm, 2)) : quantizeRows([x])
    quantized.set(x, rows)
    return rows
  }

  const quantizeRows = (parts: readonly Value[]) =>
    toRows(manyOf('QuantizeRows', parts.map(narrow), 2))

  // For the result of an ungated `Linear`, a function that writes another value in front of it.
  const behind = new Map<Value, (left: Value) => Value>()

  /** Where a layer computes the second value, it writes it next to the first: no Concat. */
  function join([left, right]: readonly [Value, Value]): Value {
    const follow = behind.get(right)
    return follow ? follow(narrow(left)) : concat([left, right], 1)
  }

  function linearOf(x: Columns, operands: readonly Value[], epilogue?: Epilogue): Value {
    const attributes = { epilogue: epilogueCodes[epilogue?.kind ?? 'none'] }
    const all = [narrow(typeof x === 'string' ? x : join(x)), ...operands]
    const y = inner(fluxd('Linear', all, attributes))
    if (epilogue?.kind !== 'gated')
      behind.set(y, (left) => inner(fluxd('Linear', [...all, absent, absent, left], attributes)))
    return y
  }

  /** ONNX Runtime infers the dtype of an fp8 product from its bias, so there must be one. */
  function biasOfNone(weights: readonly TensorSource[]): Value {
    if (precision === 'bf16') return absent
    const out = weights.reduce((sum, { shape }) => sum + shape[0]!, 0)
    return narrow(graph.floats(new Float32Array(out)))
  }

  /** The layers side by side: one product whose columns are those of all. */
  function product(x: Columns, layers: readonly Layer[], epilogue?: Epilogue): Value {
    const weights = layers.map(({ weight }) => weight)
    const biases = layers.flatMap(({ bias }) => bias ?? [])
    if (biases.length !== 0 && biases.length !== layers.length)
      throw new RangeError(`Expected a bias in all or none of ${weights.map(({ name }) => name)}`)
    const operands = [biases.length > 0 ? shared(biases, dtype) : biasOfNone(weights)]
    if (epilogue?.kind === 'gated') operands.push(epilogue.gate, narrow(epilogue.residual))
    if (precision === 'bf16') return linearOf(x, [shared(weights, dtype), ...operands], epilogue)
    const { codes, scales } = quantize(x)
    const weight = shared(weights, 'F8_E4M3')
    const attributes = { epilogue: epilogueCodes[epilogue?.kind ?? 'none'] }
    return inner(
      fluxd('Fp8Linear', [codes, scales, weight, scaleOf(weight), ...operands], attributes),
    )
  }

  function rotatedQkv(streams: readonly QkvStream[], tables: RopeTables, heads: number): Qkv {
    const scale = (source: TensorSource) => shared([source], dtype)
    const operands = streams.flatMap(({ x, q, k, v, normQ, normK }) => [
      product(x, [q, k, v]),
      scale(normQ),
      scale(normK),
    ])
    const [q, k, v] = manyOf('QkNormRope', [tables.cos, tables.sin, ...operands], 3, { heads })
    return { q: inner(q!), k: inner(k!), v: inner(v!) }
  }

  const attend =
    kernel === 'float32'
      ? portable.attention
      : cudaOps(graph, { precision, dtype: 'F32', attention: kernel }).attention

  function attention(q: Value, k: Value, v: Value, options: AttentionOptions): Value {
    if (!isInner(q)) return attend(q, k, v, options)
    if (kernel === 'float32') return narrow(attend(q, k, v, options))
    return inner(attend(q, k, v, options))
  }

  return {
    ...portable,
    linear,
    blockLinear: (x, layer, epilogue) => product(x, [layer], epilogue),
    modulatedNorm,
    rotatedQkv,
    attention,
    concat,
    splitAfter(x, head) {
      const parts = moving.splitAfter(x, head)
      if (isInner(x)) parts.forEach(inner)
      return parts
    },
  }
}
