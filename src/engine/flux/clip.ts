/**
 * CLIP's text encoder: ids [L] → pooled [1, hidden], the final hidden state at the first
 * end-of-text token (the largest id). Causal, no padding mask, no projection.
 * Source: transformers, models/clip/modeling_clip.py.
 */
import type { Value } from '../runtime/onnx/graph.js'
import { cast } from '../runtime/ops/dequantize.js'
import type { Ops } from '../runtime/ops/ops.js'
import type { Weights } from '../runtime/weights/weights.js'
import type { ClipParams } from './params.js'

/** Adds the network to `ops.graph`; L is the fixed number of positions. */
export function addClip(ops: Ops, params: ClipParams, weights: Weights): void {
  const { graph } = ops
  const { hidden, positions, vocabulary } = params
  const ids = graph.input('ids', 'I32', [positions])
  const embed = 'text_model.embeddings'
  const tokens = weights.tensor(`${embed}.token_embedding.weight`, [vocabulary, hidden])
  const places = weights.tensor(`${embed}.position_embedding.weight`, [positions, hidden])
  let x = ops.add(ops.embedding(tokens, ids), ops.weight(places))
  for (let i = 0; i < params.layers; i++)
    x = encoderLayer(ops, params, weights, `text_model.encoder.layers.${i}`, x)
  const finalNorm = weights.layer('text_model.final_layer_norm', [hidden])
  const last = ops.layerNorm(x, finalNorm, params.epsilon)
  graph.debugOutput('last_hidden_state', last)
  // The CUDA provider compares floats only; every id is one exactly.
  const end = graph.node('ArgMax', [cast(graph, ids, 'F32')], {
    attributes: { axis: 0, keepdims: 1 },
  })
  graph.output('pooled', graph.node('Gather', [last, end]), 'F32', [1, hidden])
}

function encoderLayer(ops: Ops, params: ClipParams, weights: Weights, layer: string, x: Value) {
  const { hidden, heads, mlpHidden, epsilon } = params
  const norm = (name: string, y: Value) =>
    ops.layerNorm(y, weights.layer(`${layer}.${name}`, [hidden]), epsilon)
  const project = (name: string, y: Value) =>
    ops.linear(y, weights.layer(`${layer}.self_attn.${name}_proj`, [hidden, hidden]))

  const normed = norm('layer_norm1', x)
  const [q, k, v] = (['q', 'k', 'v'] as const).map((name) => project(name, normed))
  const scale = 1 / Math.sqrt(hidden / heads)
  const mixed = ops.attention(q!, k!, v!, { heads, scale, causal: true })
  const attended = ops.add(x, project('out', mixed))
  const inner = weights.layer(`${layer}.mlp.fc1`, [mlpHidden, hidden])
  const outer = weights.layer(`${layer}.mlp.fc2`, [hidden, mlpHidden])
  const mlp = ops.linear(ops.quickGelu(ops.linear(norm('layer_norm2', attended), inner)), outer)
  return ops.add(attended, mlp)
}
