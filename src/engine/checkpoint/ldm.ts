/**
 * BFL's autoencoder file (ae.safetensors, names of LDM) under diffusers' names.
 * Source: diffusers, src/diffusers/loaders/single_file_utils.py.
 */
import { invalidCheckpoint } from '../../errors.js'
import type { TensorSlice, Tensors } from '../../safetensors/read.js'
import type { AutoencoderParams } from '../flux/params.js'

// Flux.1's values; the file does not hold them.
const fluxGroups = 32
const scalingFactor = 0.3611
const shiftFactor = 0.1159

/** The autoencoder's tensors under diffusers' names, and its params. */
export function readLdmAutoencoder(source: string, tensors: Tensors, groups = fluxGroups) {
  const params = ldmParams(source, tensors, groups)
  const levels = params.channels.length
  const renamed = [...tensors].map(([stored, slice]): [string, TensorSlice] => {
    const name = renameLdm(stored, levels)
    return [name, flattenPointwise(name, slice)]
  })
  return { params, tensors: new Map(renamed) }
}

function ldmParams(source: string, tensors: Tensors, groups: number): AutoencoderParams {
  const shape = (name: string) => {
    const slice = tensors.get(name)
    if (!slice) throw invalidCheckpoint(`${source}: expected tensor ${name} but it is missing`)
    return slice.shape
  }
  const count = (prefix: string) => {
    let n = 0
    while (tensors.has(`${prefix}.${n}.block.0.conv1.weight`)) n++
    return n
  }
  const levels = count('encoder.down')
  let layersPerBlock = 0
  while (tensors.has(`encoder.down.0.block.${layersPerBlock}.conv1.weight`)) layersPerBlock++
  return {
    channels: Array.from(
      { length: levels },
      (_, i) => shape(`encoder.down.${i}.block.0.conv1.weight`)[0]!,
    ),
    layersPerBlock,
    latentChannels: shape('decoder.conv_in.weight')[1]!,
    groups,
    scalingFactor,
    shiftFactor,
  }
}

// LDM counts the decoder's levels from the output, diffusers from the input.
const renameLdm = (name: string, levels: number) =>
  name
    .replace(/^encoder\.down\.(\d+)\.block\.(\d+)\./, 'encoder.down_blocks.$1.resnets.$2.')
    .replace(/^encoder\.down\.(\d+)\.downsample\./, 'encoder.down_blocks.$1.downsamplers.0.')
    .replace(
      /^decoder\.up\.(\d+)\.block\.(\d+)\./,
      (_, level, block) => `decoder.up_blocks.${levels - 1 - Number(level)}.resnets.${block}.`,
    )
    .replace(
      /^decoder\.up\.(\d+)\.upsample\./,
      (_, level) => `decoder.up_blocks.${levels - 1 - Number(level)}.upsamplers.0.`,
    )
    .replace('.nin_shortcut.', '.conv_shortcut.')
    .replace('.mid.block_1.', '.mid_block.resnets.0.')
    .replace('.mid.block_2.', '.mid_block.resnets.1.')
    .replace('.mid.attn_1.norm.', '.mid_block.attentions.0.group_norm.')
    .replace(/\.mid\.attn_1\.([qkv])\./, '.mid_block.attentions.0.to_$1.')
    .replace('.mid.attn_1.proj_out.', '.mid_block.attentions.0.to_out.0.')
    .replace('coder.norm_out.', 'coder.conv_norm_out.')

// The attention's 1×1 convolutions are linear layers there: same bytes, two dims.
const flattenPointwise = (name: string, slice: TensorSlice): TensorSlice =>
  name.includes('.attentions.') && slice.shape.length === 4
    ? { ...slice, shape: slice.shape.slice(0, 2) }
    : slice
