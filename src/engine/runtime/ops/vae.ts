/**
 * Dialect for networks over images, whose convolutions have no bfloat16: float32, or float16 inside
 * and float32 at the inputs and outputs. Norms are one operator of our addon (domain `fluxd`,
 * formula in native/include/fluxd/kernels.h) or a chain of ONNX ones; their statistics are float32
 * in both cases.
 */
import type { Graph, Value } from '../onnx/graph.js'
import type { Layer, TensorSource } from '../weights/weights.js'
import { cast, widen as widenStored } from './dequantize.js'
import { innerValues } from './mixedPrecision.js'
import type { Ops } from './ops.js'
import { floatNumbers, portableOps } from './portable.js'

export type ImageDType = 'F32' | 'F16'

export type ImageOptions = {
  /** Of the values inside. */
  readonly dtype: ImageDType
  readonly groupNorm: 'chain' | 'fused'
}

export function imageOps(graph: Graph, { dtype, groupNorm: kind }: ImageOptions): Ops {
  const { isInner, inner, narrow, widen } = innerValues(graph, dtype)
  const floats = portableOps({
    ...graph,
    output: (name, value, ...type) => graph.output(name, widen(value), ...type),
    debugOutput: (name, value) => graph.debugOutput(name, widen(value)),
  })
  const within = portableOps(graph, 'bf16', floatNumbers(graph, weight))

  function weight(source: TensorSource): Value {
    if (source.dtype === dtype) return graph.weight(source)
    const values = widenStored(graph, source)
    return dtype === 'F32' ? values : cast(graph, values, dtype)
  }

  function fusedNorm(x: Value, { weight: scale, bias: shift }: Layer, groups: number, silu: 0 | 1) {
    if (!shift) throw new RangeError(`Expected a bias for ${scale.name}`)
    return inner(
      graph.node('GroupNorm', [narrow(x), floats.weight(scale), floats.weight(shift)], {
        domain: 'fluxd',
        attributes: { groups, silu },
      }),
    )
  }

  const norms: Pick<Ops, 'groupNorm' | 'groupNormSilu'> =
    kind === 'fused'
      ? {
          groupNorm: (x, layer, groups) => fusedNorm(x, layer, groups, 0),
          groupNormSilu: (x, layer, groups) => fusedNorm(x, layer, groups, 1),
        }
      : {
          groupNorm: (x, layer, groups) => narrow(floats.groupNorm(widen(x), layer, groups)),
          groupNormSilu: (x, layer, groups) =>
            narrow(floats.groupNormSilu(widen(x), layer, groups)),
        }

  /** `y` is made of x without arithmetic. */
  const like = (x: Value, y: Value) => (isInner(x) ? inner(y) : y)

  return {
    ...floats,
    ...norms,
    linear: (x, layer) => inner(within.linear(narrow(x), layer)),
    conv: (x, layer, options) => inner(within.conv(narrow(x), layer, options)),
    upsample: (x) => inner(within.upsample(narrow(x))),
    attention: (q, k, v, options) =>
      inner(within.attention(narrow(q), narrow(k), narrow(v), options)),
    add: (a, b) =>
      isInner(a) && isInner(b) ? inner(within.add(a, b)) : floats.add(widen(a), widen(b)),
    mul: (a, b) => floats.mul(widen(a), widen(b)),
    split: (x, count, axis) => floats.split(widen(x), count, axis),
    reshape: (x, dims) => like(x, floats.reshape(x, dims)),
    reshapeLike: (x, model) => like(x, floats.reshapeLike(x, model)),
    transpose: (x, order) => like(x, floats.transpose(x, order)),
  }
}
