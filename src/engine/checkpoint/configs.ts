/** The config.json of each component of a diffusers folder, as the networks' params. */
import { join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import type {
  AutoencoderParams,
  ClipParams,
  FluxParams,
  SchedulerParams,
  T5Params,
} from '../flux/params.js'
import { readJson } from './files.js'

const count = z.number().int().positive()

// Fields that diffusers leaves out when they have their default are optional here too.
const FluxConfig = z.object({
  _class_name: z.literal('FluxTransformer2DModel'),
  attention_head_dim: count,
  num_attention_heads: count,
  num_layers: z.number().int().nonnegative(),
  num_single_layers: z.number().int().nonnegative(),
  in_channels: count,
  joint_attention_dim: count,
  pooled_projection_dim: count,
  guidance_embeds: z.boolean(),
  patch_size: z.literal(1).default(1),
  axes_dims_rope: z.tuple([count, count, count]).default([16, 56, 56]),
})

/** The transformer's params. Like the others of this file, it throws `checkpoint_invalid`. */
export function fluxParams(folder: string): FluxParams {
  const config = readJson(join(folder, 'config.json'), FluxConfig)
  const { attention_head_dim: headDim, axes_dims_rope: axes } = config
  const sum = axes.reduce((a, b) => a + b, 0)
  expectThat(sum === headDim, folder, {
    expected: `axes_dims_rope that add up to attention_head_dim ${headDim}`,
    came: `${axes}`,
  })
  expectThat(
    axes.every((axis) => axis % 2 === 0),
    folder,
    { expected: 'even axes_dims_rope', came: `${axes}` },
  )
  return {
    heads: config.num_attention_heads,
    headDim: config.attention_head_dim,
    doubleBlocks: config.num_layers,
    singleBlocks: config.num_single_layers,
    inChannels: config.in_channels,
    txtDim: config.joint_attention_dim,
    vecDim: config.pooled_projection_dim,
    axes: config.axes_dims_rope,
    guidance: config.guidance_embeds,
  }
}

/** Throws where fields of a config, each of them sound, contradict each other. */
function expectThat(
  holds: boolean,
  folder: string,
  { expected, came }: { readonly expected: string; readonly came: string },
) {
  if (!holds)
    throw invalidCheckpoint(`${join(folder, 'config.json')}: expected ${expected} but got ${came}`)
}

const AutoencoderConfig = z.object({
  _class_name: z.literal('AutoencoderKL'),
  block_out_channels: z.array(count).min(1),
  layers_per_block: count,
  latent_channels: count,
  norm_num_groups: count,
  scaling_factor: z.number().positive(),
  shift_factor: z.number(),
  act_fn: z.literal('silu').default('silu'),
  use_quant_conv: z.literal(false).default(false),
  use_post_quant_conv: z.literal(false).default(false),
  mid_block_add_attention: z.literal(true).default(true),
})

export function autoencoderParams(folder: string): AutoencoderParams {
  const config = readJson(join(folder, 'config.json'), AutoencoderConfig)
  const { block_out_channels: channels, norm_num_groups: groups } = config
  expectThat(
    channels.every((count) => count % groups === 0),
    folder,
    { expected: `block_out_channels that ${groups} norm_num_groups divide`, came: `${channels}` },
  )
  return {
    channels: config.block_out_channels,
    layersPerBlock: config.layers_per_block,
    latentChannels: config.latent_channels,
    groups: config.norm_num_groups,
    scalingFactor: config.scaling_factor,
    shiftFactor: config.shift_factor,
  }
}

const ClipConfig = z.object({
  hidden_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  intermediate_size: count,
  vocab_size: count,
  max_position_embeddings: count,
  layer_norm_eps: z.number().positive(),
  hidden_act: z.literal('quick_gelu'),
})

export function clipParams(folder: string): ClipParams {
  const config = readJson(join(folder, 'config.json'), ClipConfig)
  const { hidden_size: hidden, num_attention_heads: heads } = config
  expectThat(hidden % heads === 0, folder, {
    expected: `a hidden_size that ${heads} num_attention_heads divide`,
    came: `${hidden}`,
  })
  return {
    hidden: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    mlpHidden: config.intermediate_size,
    vocabulary: config.vocab_size,
    positions: config.max_position_embeddings,
    epsilon: config.layer_norm_eps,
  }
}

const T5Config = z.object({
  d_model: count,
  d_kv: count,
  d_ff: count,
  num_layers: count,
  num_heads: count,
  vocab_size: count,
  relative_attention_num_buckets: count,
  relative_attention_max_distance: count.default(128),
  layer_norm_epsilon: z.number().positive(),
  feed_forward_proj: z.literal('gated-gelu'),
})

export function t5Params(folder: string): T5Params {
  const config = readJson(join(folder, 'config.json'), T5Config)
  const { relative_attention_num_buckets: buckets, relative_attention_max_distance: far } = config
  // Half of the buckets is for each direction, and half of those for exact distances.
  expectThat(buckets % 4 === 0 && far > buckets / 4, folder, {
    expected:
      'relative_attention_num_buckets in fours, and a max_distance beyond a quarter of them',
    came: `${buckets} and ${far}`,
  })
  return {
    hidden: config.d_model,
    layers: config.num_layers,
    heads: config.num_heads,
    headDim: config.d_kv,
    mlpHidden: config.d_ff,
    vocabulary: config.vocab_size,
    buckets: config.relative_attention_num_buckets,
    maxDistance: config.relative_attention_max_distance,
    epsilon: config.layer_norm_epsilon,
  }
}

const SchedulerConfig = z.object({
  _class_name: z.literal('FlowMatchEulerDiscreteScheduler'),
  use_dynamic_shifting: z.boolean().default(false),
  shift: z.number().positive().default(1),
  base_shift: z.number().default(0.5),
  max_shift: z.number().default(1.15),
  base_image_seq_len: count.default(256),
  max_image_seq_len: count.default(4096),
})

export function schedulerParams(folder: string): SchedulerParams {
  const path = join(folder, 'scheduler_config.json')
  const config = readJson(path, SchedulerConfig)
  if (config.base_image_seq_len >= config.max_image_seq_len)
    throw invalidCheckpoint(
      `${path}: expected a base_image_seq_len below max_image_seq_len ` +
        `${config.max_image_seq_len} but got ${config.base_image_seq_len}`,
    )
  return {
    useDynamicShifting: config.use_dynamic_shifting,
    shift: config.shift,
    baseShift: config.base_shift,
    maxShift: config.max_shift,
    baseImageSeqLen: config.base_image_seq_len,
    maxImageSeqLen: config.max_image_seq_len,
  }
}
