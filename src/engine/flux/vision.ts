/**
 * The two vision transformers of the safety checker. Pixels [1, 3, S, S] become N = (S/patch)²
 * tokens after a class token, whose final state is judged. Blocks are pre-norm, attention has no
 * mask.
 * Source: transformers, models/clip/modeling_clip.py (CLIPVisionModel) and
 * models/vit/modeling_vit.py; diffusers, pipelines/stable_diffusion/safety_checker.py.
 */
import type { Value } from '../runtime/onnx/graph.js'
import type { Ops } from '../runtime/ops/ops.js'
import type { Layer, Weights } from '../runtime/weights/weights.js'
import type { ClassifierParams, ConceptParams, VisionParams } from './params.js'

/**
 * Adds CLIP's vision tower with the concept heads: the outputs are cosine similarity − threshold,
 * `concepts` [1, concepts] and `specialCare` [1, specialCare].
 */
export function addConceptScores(ops: Ops, params: ConceptParams, weights: Weights): void {
  const { graph } = ops
  const { hidden, projection } = params
  const tower = 'vision_model.vision_model'
  const embed = `${tower}.embeddings`
  const norm = (name: string, x: Value) =>
    ops.layerNorm(x, weights.layer(`${tower}.${name}`, [hidden]), params.epsilon)

  const patches = { weight: weights.tensor(`${embed}.patch_embedding.weight`, patchShape(params)) }
  const classToken = ops.weight(weights.tensor(`${embed}.class_embedding`, [hidden]))
  const positionDims = [tokenCount(params), hidden]
  const positions = ops.weight(weights.tensor(`${embed}.position_embedding.weight`, positionDims))
  let x = norm('pre_layrnorm', embedPixels(ops, params, { patches, classToken, positions }))
  for (let i = 0; i < params.layers; i++)
    x = block(ops, params, clipBlock(params, weights, `${tower}.encoder.layers.${i}`), x)

  const project = { weight: weights.tensor('visual_projection.weight', [projection, hidden]) }
  const embedding = ops.linear(norm('post_layernorm', takeClassToken(ops, x)), project)
  graph.debugOutput('image_embeds', embedding)
  for (const [output, name, count] of [
    ['concepts', 'concept_embeds', params.concepts],
    ['specialCare', 'special_care_embeds', params.specialCare],
  ] as const) {
    const directions = ops.weight(weights.tensor(name, [count, projection]))
    const thresholds = ops.weight(weights.tensor(`${name}_weights`, [count]))
    const cosines = cosineSimilarity(ops, embedding, directions)
    graph.debugOutput(`${output}_cosines`, cosines)
    graph.output(output, graph.node('Sub', [cosines, thresholds]), 'F32', [1, count])
  }
}

/** Adds ViT with its linear head: `logits` [1, labels]. */
export function addClassifier(ops: Ops, params: ClassifierParams, weights: Weights): void {
  const { hidden, labels } = params
  const embed = 'vit.embeddings'
  const patches = weights.layer(`${embed}.patch_embeddings.projection`, patchShape(params))
  const classToken = ops.weight(weights.tensor(`${embed}.cls_token`, [1, 1, hidden]))
  const positionDims = [1, tokenCount(params), hidden]
  const positions = ops.weight(weights.tensor(`${embed}.position_embeddings`, positionDims))
  let x = embedPixels(ops, params, { patches, classToken, positions })
  for (let i = 0; i < params.layers; i++)
    x = block(ops, params, vitBlock(params, weights, `vit.encoder.layer.${i}`), x)

  const finalNorm = weights.layer('vit.layernorm', [hidden])
  const judged = ops.layerNorm(takeClassToken(ops, x), finalNorm, params.epsilon)
  const head = weights.layer('classifier', [labels.length, hidden])
  ops.graph.output('logits', ops.linear(judged, head), 'F32', [1, labels.length])
}

const patchCount = ({ imageSide, patchSide }: VisionParams) =>
  Math.floor(imageSide / patchSide) ** 2
const tokenCount = (params: VisionParams) => patchCount(params) + 1
const patchShape = ({ hidden, patchSide }: VisionParams) => [hidden, 3, patchSide, patchSide]

type PixelEmbedding = {
  readonly patches: Layer
  readonly classToken: Value
  readonly positions: Value
}

/** Pixels → tokens [1 + N, hidden], the class token first. */
function embedPixels(ops: Ops, params: VisionParams, embedding: PixelEmbedding): Value {
  const { imageSide, patchSide, hidden } = params
  const pixels = ops.graph.input('pixels', 'F32', [1, 3, imageSide, imageSide])
  const embedded = ops.conv(pixels, embedding.patches, { stride: patchSide, pads: [0, 0, 0, 0] })
  const patches = ops.transpose(ops.reshape(embedded, [hidden, patchCount(params)]), [1, 0])
  const tokens = ops.concat([ops.reshape(embedding.classToken, [1, hidden]), patches], 0)
  return ops.add(tokens, ops.reshape(embedding.positions, [tokenCount(params), hidden]))
}

/** The layers of one block under the names of the field; the files have two sets of names. */
type BlockLayers = Readonly<
  Record<'norm1' | 'q' | 'k' | 'v' | 'out' | 'norm2' | 'inner' | 'outer', Layer>
> & { readonly activation: 'quickGelu' | 'gelu' }

function block(ops: Ops, { heads, hidden, epsilon }: VisionParams, layers: BlockLayers, x: Value) {
  const normed = ops.layerNorm(x, layers.norm1, epsilon)
  const [q, k, v] = [layers.q, layers.k, layers.v].map((layer) => ops.linear(normed, layer))
  const mixed = ops.attention(q!, k!, v!, { heads, scale: 1 / Math.sqrt(hidden / heads) })
  const attended = ops.add(x, ops.linear(mixed, layers.out))
  const inner = ops.linear(ops.layerNorm(attended, layers.norm2, epsilon), layers.inner)
  return ops.add(attended, ops.linear(ops[layers.activation](inner), layers.outer))
}

function clipBlock(params: VisionParams, weights: Weights, name: string): BlockLayers {
  const { hidden, mlpHidden } = params
  const square = (part: string) => weights.layer(`${name}.self_attn.${part}_proj`, [hidden, hidden])
  return {
    norm1: weights.layer(`${name}.layer_norm1`, [hidden]),
    q: square('q'),
    k: square('k'),
    v: square('v'),
    out: square('out'),
    norm2: weights.layer(`${name}.layer_norm2`, [hidden]),
    inner: weights.layer(`${name}.mlp.fc1`, [mlpHidden, hidden]),
    outer: weights.layer(`${name}.mlp.fc2`, [hidden, mlpHidden]),
    activation: 'quickGelu',
  }
}

function vitBlock(params: VisionParams, weights: Weights, name: string): BlockLayers {
  const { hidden, mlpHidden } = params
  const square = (part: string) => weights.layer(`${name}.attention.${part}`, [hidden, hidden])
  return {
    norm1: weights.layer(`${name}.layernorm_before`, [hidden]),
    q: square('attention.query'),
    k: square('attention.key'),
    v: square('attention.value'),
    out: square('output.dense'),
    norm2: weights.layer(`${name}.layernorm_after`, [hidden]),
    inner: weights.layer(`${name}.intermediate.dense`, [mlpHidden, hidden]),
    outer: weights.layer(`${name}.output.dense`, [hidden, mlpHidden]),
    activation: 'gelu',
  }
}

/** Row 0 of the tokens, [1, hidden]. */
const takeClassToken = ({ graph }: Ops, x: Value) => graph.node('Gather', [x, graph.int64s([0])])

/** Of a vector [1, D] with each row of [C, D] → [1, C]. */
function cosineSimilarity({ graph }: Ops, vector: Value, rows: Value): Value {
  const toUnit = (x: Value) => {
    const lengths = graph.node('ReduceL2', [x, graph.int64s([-1])], { attributes: { keepdims: 1 } })
    return graph.node('Div', [x, lengths])
  }
  return graph.node('Gemm', [toUnit(vector), toUnit(rows)], { attributes: { transB: 1 } })
}
