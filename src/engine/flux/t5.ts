/**
 * T5's encoder: ids [L], buckets [L, L] → hidden [L, hidden]. No mask (pads are real inputs), no
 * scaling of the scores, no biases but the relative position bias, which block 0 owns for all.
 * Source: transformers, models/t5/modeling_t5.py.
 */
import type { Value } from '../runtime/onnx/graph.js'
import type { Ops } from '../runtime/ops/ops.js'
import type { Weights } from '../runtime/weights/weights.js'
import type { T5Params } from './params.js'

/** Adds the network to `ops.graph`; L is dynamic. */
export function addT5(ops: Ops, params: T5Params, weights: Weights): void {
  const { graph } = ops
  const { hidden, epsilon } = params
  const ids = graph.input('ids', 'I32', ['tokens'])
  const table = weights.tensor('shared.weight', [params.vocabulary, hidden])
  const bias = positionBias(ops, params, weights)
  let x = ops.embedding(table, ids)
  for (let i = 0; i < params.layers; i++)
    x = encoderBlock(ops, params, weights, `encoder.block.${i}`, x, bias)
  const finalNorm = weights.tensor('encoder.final_layer_norm.weight', [hidden])
  graph.output('hidden', ops.rmsNorm(x, finalNorm, epsilon), 'F32', ['tokens', hidden])
}

// [1, heads, L, L]: the row of each pair's bucket, heads first.
function positionBias(ops: Ops, params: T5Params, weights: Weights): Value {
  const { graph } = ops
  const buckets = graph.input('buckets', 'I32', ['tokens', 'tokens'])
  const name = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
  const perPair = ops.embedding(weights.tensor(name, [params.buckets, params.heads]), buckets)
  return graph.node('Unsqueeze', [ops.transpose(perPair, [2, 0, 1]), graph.int64s([0])])
}

function encoderBlock(
  ops: Ops,
  params: T5Params,
  weights: Weights,
  block: string,
  x: Value,
  bias: Value,
): Value {
  const { hidden, heads, headDim, mlpHidden, epsilon } = params
  const inner = heads * headDim
  const linear = (y: Value, name: string, shape: readonly number[]) =>
    ops.linear(y, { weight: weights.tensor(`${block}.${name}.weight`, shape) })
  const norm = (y: Value, layer: string) =>
    ops.rmsNorm(y, weights.tensor(`${block}.${layer}.layer_norm.weight`, [hidden]), epsilon)

  const normed = norm(x, 'layer.0')
  const attention = 'layer.0.SelfAttention'
  const [q, k, v] = (['q', 'k', 'v'] as const).map((name) =>
    linear(normed, `${attention}.${name}`, [inner, hidden]),
  )
  const mixed = ops.attention(q!, k!, v!, { heads, scale: 1, bias })
  const attended = ops.add(x, linear(mixed, `${attention}.o`, [hidden, inner]))

  const y = norm(attended, 'layer.1')
  const dense = 'layer.1.DenseReluDense'
  const gate = ops.geluTanh(linear(y, `${dense}.wi_0`, [mlpHidden, hidden]))
  const gated = ops.mul(gate, linear(y, `${dense}.wi_1`, [mlpHidden, hidden]))
  return ops.add(attended, linear(gated, `${dense}.wo`, [hidden, mlpHidden]))
}

/**
 * The bucket of each pair (query, key) of a sequence, [length · length] row-major.
 * Half the buckets are for keys after the query; of each half the first half is exact, the rest
 * grows logarithmically up to `maxDistance`.
 */
export function positionBuckets(params: T5Params, length: number): Int32Array {
  const half = params.buckets / 2
  const byDistance = Array.from({ length }, (_, distance) => bucketOf(distance, half, params))
  return Int32Array.from({ length: length * length }, (_, i) => {
    const relative = (i % length) - Math.floor(i / length)
    return (relative > 0 ? half : 0) + byDistance[Math.abs(relative)]!
  })
}

function bucketOf(distance: number, half: number, { maxDistance }: T5Params): number {
  const exact = half / 2
  if (distance < exact) return distance
  const position = Math.log(distance / exact) / Math.log(maxDistance / exact)
  return Math.min(exact + Math.floor(position * (half - exact)), half - 1)
}
