/**
 * The step graph: one evaluation of the Flux transformer.
 *
 *     img [N, inChannels] packed latents, txt [L, D], modulation [modulationSize] (one row of the
 *     conditioning graph), cos and sin [L + N, headDim/2]  →  velocity [N, inChannels]
 *
 * Text comes before image wherever the two streams are joined. Names are those of diffusers, with
 * norm_out.linear cut into its halves. Source: BFL flux, src/flux/model.py and modules/layers.py.
 */
import type { Value } from '../runtime/onnx/graph.js'
import type { Ops, QkvStream, RopeTables } from '../runtime/ops/ops.js'
import type { Weights } from '../runtime/weights/weights.js'
import { cutModulation, type Modulation, type StreamModulation } from './modulation.js'
import { type FluxParams, hiddenSize, mlpHidden } from './params.js'

type Scope = {
  readonly ops: Ops
  readonly params: FluxParams
  readonly weights: Weights
  readonly tables: RopeTables
}

/**
 * Whether `blockLinear` multiplies by the tensor of this name: q, k, v, the output of attention and
 * both halves of the feed-forward layers, in every block.
 */
export const isBlockWeight = (name: string) =>
  /^(single_)?transformer_blocks\..+\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|proj|net\.2|proj_mlp|proj_out)\.weight$/.test(
    name,
  )

/** Adds the network to `ops.graph`; N and L are dynamic. */
export function addTransformer(ops: Ops, params: FluxParams, weights: Weights): void {
  const { graph } = ops
  const width = hiddenSize(params)
  const latents = graph.input('img', 'F32', ['imgTokens', params.inChannels])
  let txt = graph.input('txt', 'F32', ['txtTokens', width])
  const row = graph.input('modulation', 'F32', ['modulationSize'])
  const tables = {
    cos: graph.input('cos', 'F32', ['tokens', params.headDim / 2]),
    sin: graph.input('sin', 'F32', ['tokens', params.headDim / 2]),
  }
  const scope = { ops, params, weights, tables }
  const modulation = cutModulation(ops, params, row)

  const embedder = weights.layer('x_embedder', [width, params.inChannels])
  let img = ops.linear(latents, embedder)
  graph.debugOutput('img_in', img)
  modulation.double.forEach((chunks, i) => {
    ;[img, txt] = doubleBlock(scope, `transformer_blocks.${i}`, { img, txt }, chunks)
    graph.debugOutput(`double${i}_img`, img)
    graph.debugOutput(`double${i}_txt`, txt)
  })
  let x = ops.concat([txt, img], 0)
  modulation.single.forEach((chunks, i) => {
    x = singleBlock(scope, `single_transformer_blocks.${i}`, x, chunks)
    graph.debugOutput(`single${i}`, x)
  })
  const [, imgOut] = ops.splitAfter(x, txt)
  const normed = ops.modulatedNorm(imgOut, modulation.final.scale, modulation.final.shift)
  graph.debugOutput('norm_out', normed)
  const velocity = ops.linear(normed, weights.layer('proj_out', [params.inChannels, width]))
  graph.output('velocity', velocity, 'F32', ['imgTokens', params.inChannels])
}

type Streams<T> = { readonly img: T; readonly txt: T }

// The text stream's layers carry other names than the image stream's.
const streamNames = {
  img: {
    q: 'to_q',
    k: 'to_k',
    v: 'to_v',
    normQ: 'norm_q',
    normK: 'norm_k',
    proj: 'to_out.0',
    mlp: 'ff',
  },
  txt: {
    q: 'add_q_proj',
    k: 'add_k_proj',
    v: 'add_v_proj',
    normQ: 'norm_added_q',
    normK: 'norm_added_k',
    proj: 'to_add_out',
    mlp: 'ff_context',
  },
} as const

type StreamNames = (typeof streamNames)[keyof Streams<unknown>]

/** Returns the new img and txt streams. */
function doubleBlock(
  scope: Scope,
  block: string,
  { img, txt }: Streams<Value>,
  modulation: Streams<StreamModulation>,
): readonly [Value, Value] {
  const { ops } = scope
  const imgNormed = modulate(scope, img, modulation.img.attention)
  const txtNormed = modulate(scope, txt, modulation.txt.attention)
  const mixed = attend(scope, [
    qkvStream(scope, block, streamNames.txt, txtNormed),
    qkvStream(scope, block, streamNames.img, imgNormed),
  ])
  const [txtMixed, imgMixed] = ops.splitAfter(mixed, txt)
  return [
    finishStream(scope, block, streamNames.img, { x: img, mixed: imgMixed }, modulation.img),
    finishStream(scope, block, streamNames.txt, { x: txt, mixed: txtMixed }, modulation.txt),
  ]
}

const modulate = ({ ops }: Scope, x: Value, { scale, shift }: Modulation) =>
  ops.modulatedNorm(x, scale, shift)

function qkvStream(scope: Scope, block: string, names: StreamNames, x: Value): QkvStream {
  const { weights, params } = scope
  const width = hiddenSize(params)
  const layer = (name: string) => weights.layer(`${block}.attn.${name}`, [width, width])
  const norm = (name: string) => weights.tensor(`${block}.attn.${name}.weight`, [params.headDim])
  return {
    x,
    q: layer(names.q),
    k: layer(names.k),
    v: layer(names.v),
    normQ: norm(names.normQ),
    normK: norm(names.normK),
  }
}

function attend({ ops, params, tables }: Scope, streams: readonly QkvStream[]): Value {
  const { heads, headDim } = params
  const { q, k, v } = ops.rotatedQkv(streams, tables, heads)
  return ops.attention(q, k, v, { heads, scale: 1 / Math.sqrt(headDim) })
}

function finishStream(
  scope: Scope,
  block: string,
  names: StreamNames,
  { x, mixed }: { readonly x: Value; readonly mixed: Value },
  modulation: StreamModulation,
): Value {
  const { ops, weights, params } = scope
  const width = hiddenSize(params)
  const proj = weights.layer(`${block}.attn.${names.proj}`, [width, width])
  const { attention, mlp } = modulation
  const attended = ops.blockLinear(mixed, proj, gated(x, attention))
  const inner = weights.layer(`${block}.${names.mlp}.net.0.proj`, [mlpHidden(params), width])
  const outer = weights.layer(`${block}.${names.mlp}.net.2`, [width, mlpHidden(params)])
  const active = ops.blockLinear(modulate(scope, attended, mlp), inner, { kind: 'gelu' })
  return ops.blockLinear(active, outer, gated(attended, mlp))
}

const gated = (residual: Value, { gate }: Modulation) =>
  ({ kind: 'gated', residual, gate }) as const

// Attention and feed-forward side by side; proj_out takes the attention part first.
function singleBlock(scope: Scope, block: string, x: Value, modulation: Modulation): Value {
  const { ops, weights, params } = scope
  const width = hiddenSize(params)
  const normed = modulate(scope, x, modulation)
  const mixed = attend(scope, [qkvStream(scope, block, streamNames.img, normed)])
  const inner = weights.layer(`${block}.proj_mlp`, [mlpHidden(params), width])
  const mlp = ops.blockLinear(normed, inner, { kind: 'gelu' })
  const outer = weights.layer(`${block}.proj_out`, [width, width + mlpHidden(params)])
  return ops.blockLinear([mixed, mlp], outer, gated(x, modulation))
}
