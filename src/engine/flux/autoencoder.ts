/**
 * The autoencoder. Names are those of diffusers' AutoencoderKL; the affine of the latents is
 * part of the graphs.
 *
 *     decoder: latents [1, C, h, w] → rgb [8h, 8w, 3] uint8 (debug output `image`:
 *              [1, 3, 8h, 8w]), and brightness [], finite only if every pixel is (bytes always are)
 *     encoder: image [1, 3, H, W] in [−1, 1] → latents [1, C, H/8, W/8], the mode
 *
 * Source: BFL flux, src/flux/modules/autoencoder.py.
 */
import type { Value } from '../runtime/onnx/graph.js'
import type { Ops } from '../runtime/ops/ops.js'
import type { Weights } from '../runtime/weights/weights.js'
import type { AutoencoderParams } from './params.js'

type Scope = { readonly ops: Ops; readonly params: AutoencoderParams; readonly weights: Weights }

const same = { stride: 1, pads: [1, 1, 1, 1] } as const
const uint8 = 2

/** Adds the decoder to `ops.graph`; h and w are dynamic. */
export function addDecoder(ops: Ops, params: AutoencoderParams, weights: Weights): void {
  const { graph } = ops
  const scope = { ops, params, weights }
  const channels = [...params.channels].reverse()
  const latents = graph.input('latents', 'F32', [1, params.latentChannels, 'h', 'w'])
  const scaled = graph.node('Div', [latents, graph.floats([params.scalingFactor])])
  const z = ops.add(scaled, graph.floats([params.shiftFactor]))

  let x = conv(scope, 'decoder.conv_in', z, params.latentChannels, channels[0]!)
  x = midBlock(scope, 'decoder.mid_block', x, channels[0]!)
  let from = channels[0]!
  channels.forEach((to, i) => {
    const block = `decoder.up_blocks.${i}`
    for (let j = 0; j <= params.layersPerBlock; j++) {
      x = resnet(scope, `${block}.resnets.${j}`, x, from, to)
      from = to
    }
    if (i < channels.length - 1)
      x = conv(scope, `${block}.upsamplers.0.conv`, ops.upsample(x), to, to)
  })
  x = conv(scope, 'decoder.conv_out', normSilu(scope, 'decoder.conv_norm_out', x, from), from, 3)
  graph.debugOutput('image', x)
  const half = graph.floats([127.5])
  const levels = ops.add(ops.mul(x, half), half)
  graph.output('rgb', toRgb(ops, levels), 'U8', ['height', 'width', 3])
  const sum = graph.node('ReduceL1', [levels], { attributes: { keepdims: 0 } })
  graph.output('brightness', sum, 'F32', [])
}

// round(clamp(x/2 + 0.5, 0, 1)·255), as diffusers does; BFL truncates.
function toRgb(ops: Ops, levels: Value): Value {
  const { graph } = ops
  const bounds = [graph.floats([0], []), graph.floats([255], [])]
  const rounded = graph.node('Round', [graph.node('Clip', [levels, ...bounds])])
  const bytes = graph.node('Cast', [rounded], { attributes: { to: uint8 } })
  return graph.node('Squeeze', [ops.transpose(bytes, [0, 2, 3, 1]), graph.int64s([0])])
}

/** Adds the encoder to `ops.graph`; H and W are dynamic. */
export function addEncoder(ops: Ops, params: AutoencoderParams, weights: Weights): void {
  const { graph } = ops
  const scope = { ops, params, weights }
  const { channels, latentChannels } = params
  const image = graph.input('image', 'F32', [1, 3, 'height', 'width'])
  let x = conv(scope, 'encoder.conv_in', image, 3, channels[0]!)
  let from = channels[0]!
  channels.forEach((to, i) => {
    const block = `encoder.down_blocks.${i}`
    for (let j = 0; j < params.layersPerBlock; j++) {
      x = resnet(scope, `${block}.resnets.${j}`, x, from, to)
      from = to
    }
    if (i < channels.length - 1) x = downsample(scope, `${block}.downsamplers.0.conv`, x, to)
  })
  x = midBlock(scope, 'encoder.mid_block', x, from)
  const normed = normSilu(scope, 'encoder.conv_norm_out', x, from)
  const moments = conv(scope, 'encoder.conv_out', normed, from, 2 * latentChannels)
  const [mean, logvar] = ops.split(moments, 2, 1)
  graph.debugOutput('mean', mean!)
  graph.debugOutput('logvar', logvar!)
  const centred = graph.node('Sub', [mean!, graph.floats([params.shiftFactor])])
  const latents = ops.mul(centred, graph.floats([params.scalingFactor]))
  graph.output('latents', latents, 'F32', [1, latentChannels, 'h', 'w'])
}

function conv({ ops, weights }: Scope, name: string, x: Value, from: number, to: number): Value {
  return ops.conv(x, weights.layer(name, [to, from, 3, 3]), same)
}

// One row and column of zeros at the bottom and right only.
function downsample({ ops, weights }: Scope, name: string, x: Value, channels: number): Value {
  const layer = weights.layer(name, [channels, channels, 3, 3])
  return ops.conv(x, layer, { stride: 2, pads: [0, 0, 1, 1] })
}

function normSilu({ ops, weights, params }: Scope, name: string, x: Value, channels: number) {
  return ops.groupNormSilu(x, weights.layer(name, [channels]), params.groups)
}

function resnet(scope: Scope, name: string, x: Value, from: number, to: number): Value {
  const { ops, weights } = scope
  const inner = conv(scope, `${name}.conv1`, normSilu(scope, `${name}.norm1`, x, from), from, to)
  const outer = conv(scope, `${name}.conv2`, normSilu(scope, `${name}.norm2`, inner, to), to, to)
  if (from === to) return ops.add(x, outer)
  const shortcut = weights.layer(`${name}.conv_shortcut`, [to, from, 1, 1])
  return ops.add(ops.conv(x, shortcut, { stride: 1, pads: [0, 0, 0, 0] }), outer)
}

function midBlock(scope: Scope, name: string, x: Value, channels: number): Value {
  const first = resnet(scope, `${name}.resnets.0`, x, channels, channels)
  const mixed = pixelAttention(scope, `${name}.attentions.0`, first, channels)
  return resnet(scope, `${name}.resnets.1`, mixed, channels, channels)
}

// One head over all pixels.
function pixelAttention(scope: Scope, name: string, x: Value, channels: number): Value {
  const { ops, weights, params } = scope
  const normed = ops.groupNorm(x, weights.layer(`${name}.group_norm`, [channels]), params.groups)
  const pixels = ops.transpose(ops.reshape(normed, [channels, -1]), [1, 0])
  const project = (part: string, y: Value) =>
    ops.linear(y, weights.layer(`${name}.${part}`, [channels, channels]))
  const [q, k, v] = ['to_q', 'to_k', 'to_v'].map((part) => project(part, pixels))
  const mixed = ops.attention(q!, k!, v!, { heads: 1, scale: 1 / Math.sqrt(channels) })
  const plane = ops.transpose(project('to_out.0', mixed), [1, 0])
  return ops.add(x, ops.reshapeLike(plane, x))
}
