/**
 * The conditioning graph: everything that depends on timestep, guidance and prompt but not on the
 * latents. It runs once per image, for all steps, and keeps the modulation layers (27 % of the
 * weights of Flux.1) out of the step.
 *
 *     timesteps [M, 256], guidance [1, 256], pooled [1, vecDim], hidden [L, txtDim]
 *       → modulation [M, modulationSize], txt [L, D]
 */
import type { Graph, Value } from '../runtime/onnx/graph.js'
import type { Ops } from '../runtime/ops/ops.js'
import type { Weights } from '../runtime/weights/weights.js'
import { modulationSize } from './modulation.js'
import { type FluxParams, hiddenSize, sinusoidDim } from './params.js'

/** Adds the network to `ops.graph`; M and L are dynamic. */
export function addConditioning(ops: Ops, params: FluxParams, weights: Weights): void {
  const { graph } = ops
  const width = hiddenSize(params)
  const hidden = graph.input('hidden', 'F32', ['txtTokens', params.txtDim])
  const vec = embedVec(ops, params, weights)
  graph.debugOutput('vec', vec)

  const activated = ops.silu(vec)
  const rows = modulationRows(ops, params, weights, activated)
  const txt = ops.linear(hidden, weights.layer('context_embedder', [width, params.txtDim]))
  graph.output('modulation', ops.concat(rows, 1), 'F32', ['steps', modulationSize(params)])
  graph.output('txt', txt, 'F32', ['txtTokens', width])
}

// vec = time_in(t) + guidance_in(g) + vector_in(pooled), [M, D]
function embedVec(ops: Ops, params: FluxParams, weights: Weights): Value {
  const { graph } = ops
  const width = hiddenSize(params)
  const embed = (x: Value, name: string, size: number) => {
    const inner = ops.linear(x, weights.layer(`time_text_embed.${name}.linear_1`, [width, size]))
    const outer = weights.layer(`time_text_embed.${name}.linear_2`, [width, width])
    return ops.linear(ops.silu(inner), outer)
  }
  const timesteps = graph.input('timesteps', 'F32', ['steps', sinusoidDim])
  const pooled = graph.input('pooled', 'F32', [1, params.vecDim])
  let vec = embed(timesteps, 'timestep_embedder', sinusoidDim)
  if (params.guidance) {
    const guidance = graph.input('guidance', 'F32', [1, sinusoidDim])
    vec = ops.add(vec, embed(guidance, 'guidance_embedder', sinusoidDim))
  }
  return ops.add(vec, embed(pooled, 'text_embedder', params.vecDim))
}

function modulationRows(ops: Ops, params: FluxParams, weights: Weights, vec: Value): Value[] {
  const width = hiddenSize(params)
  const rows: Value[] = []
  const modulate = (name: string, chunks: readonly ('shift' | 'scale' | 'gate')[]) => {
    const row = ops.linear(vec, weights.layer(name, [chunks.length * width, width]))
    rows.push(ops.add(row, scaleOffset(ops.graph, chunks, width)))
  }
  const one = ['shift', 'scale', 'gate'] as const
  for (let i = 0; i < params.doubleBlocks; i++) {
    modulate(`transformer_blocks.${i}.norm1.linear`, [...one, ...one])
    modulate(`transformer_blocks.${i}.norm1_context.linear`, [...one, ...one])
  }
  for (let i = 0; i < params.singleBlocks; i++)
    modulate(`single_transformer_blocks.${i}.norm.linear`, one)
  modulate('norm_out.shift', ['shift'])
  modulate('norm_out.scale', ['scale'])
  return rows
}

// 1 where a scale stands, 0 elsewhere: turns scale into 1 + scale.
function scaleOffset(graph: Graph, chunks: readonly string[], width: number): Value {
  const offsets = new Float32Array(chunks.length * width)
  chunks.forEach((chunk, i) => {
    if (chunk === 'scale') offsets.fill(1, i * width, (i + 1) * width)
  })
  return graph.floats(offsets)
}
