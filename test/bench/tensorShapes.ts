/**
 * Names and shapes of every tensor of a Flux.1 checkpoint, for writing one with random weights.
 * The transformer has two layouts, BFL's single file and diffusers' folder; the other networks are
 * those of a diffusers folder in both.
 */
import type {
  AutoencoderParams,
  ClipParams,
  FluxParams,
  T5Params,
} from '../../src/engine/flux/params.js'

export type Shapes = ReadonlyMap<string, readonly number[]>

const range = (count: number) => Array.from({ length: count }, (_, i) => i)

function collector() {
  const shapes = new Map<string, readonly number[]>()
  return {
    shapes,
    tensor: (name: string, ...shape: number[]) => shapes.set(name, shape),
    /** Weight [out, in] and bias [out]. */
    linear(name: string, out: number, input: number) {
      shapes.set(`${name}.weight`, [out, input]).set(`${name}.bias`, [out])
    },
    conv(name: string, out: number, input: number, size: number) {
      shapes.set(`${name}.weight`, [out, input, size, size]).set(`${name}.bias`, [out])
    },
    affine(name: string, size: number) {
      shapes.set(`${name}.weight`, [size]).set(`${name}.bias`, [size])
    },
  }
}

/** BFL's single file. */
export function bflTransformerShapes(params: FluxParams): Shapes {
  const { shapes, tensor, linear } = collector()
  const { headDim } = params
  const width = params.heads * headDim
  const embedders = [
    ['time_in', 256],
    ['vector_in', params.vecDim],
    ...(params.guidance ? [['guidance_in', 256] as const] : []),
  ] as const
  linear('img_in', width, params.inChannels)
  linear('txt_in', width, params.txtDim)
  for (const [name, size] of embedders) {
    linear(`${name}.in_layer`, width, size)
    linear(`${name}.out_layer`, width, width)
  }
  const norms = (prefix: string) => {
    tensor(`${prefix}.query_norm.scale`, headDim)
    tensor(`${prefix}.key_norm.scale`, headDim)
  }
  for (const i of range(params.doubleBlocks)) {
    for (const stream of ['img', 'txt']) {
      const block = `double_blocks.${i}.${stream}`
      linear(`${block}_mod.lin`, 6 * width, width)
      linear(`${block}_attn.qkv`, 3 * width, width)
      norms(`${block}_attn.norm`)
      linear(`${block}_attn.proj`, width, width)
      linear(`${block}_mlp.0`, 4 * width, width)
      linear(`${block}_mlp.2`, width, 4 * width)
    }
  }
  for (const i of range(params.singleBlocks)) {
    const block = `single_blocks.${i}`
    linear(`${block}.modulation.lin`, 3 * width, width)
    linear(`${block}.linear1`, 7 * width, width)
    linear(`${block}.linear2`, width, 5 * width)
    norms(`${block}.norm`)
  }
  linear('final_layer.adaLN_modulation.1', 2 * width, width)
  linear('final_layer.linear', params.inChannels, width)
  return shapes
}

const diffusersStreams = [
  {
    mod: 'norm1.linear',
    attention: ['attn.to_q', 'attn.to_k', 'attn.to_v', 'attn.to_out.0'],
    norms: ['attn.norm_q', 'attn.norm_k'],
    mlp: 'ff',
  },
  {
    mod: 'norm1_context.linear',
    attention: ['attn.add_q_proj', 'attn.add_k_proj', 'attn.add_v_proj', 'attn.to_add_out'],
    norms: ['attn.norm_added_q', 'attn.norm_added_k'],
    mlp: 'ff_context',
  },
] as const

/** The transformer of a diffusers folder. */
export function diffusersTransformerShapes(params: FluxParams): Shapes {
  const { shapes, tensor, linear } = collector()
  const width = params.heads * params.headDim
  const embedders = [
    ['timestep_embedder', 256],
    ['text_embedder', params.vecDim],
    ...(params.guidance ? [['guidance_embedder', 256] as const] : []),
  ] as const
  linear('x_embedder', width, params.inChannels)
  linear('context_embedder', width, params.txtDim)
  for (const [name, size] of embedders) {
    linear(`time_text_embed.${name}.linear_1`, width, size)
    linear(`time_text_embed.${name}.linear_2`, width, width)
  }
  for (const i of range(params.doubleBlocks)) {
    const block = `transformer_blocks.${i}`
    for (const { mod, attention, norms, mlp } of diffusersStreams) {
      linear(`${block}.${mod}`, 6 * width, width)
      for (const name of attention) linear(`${block}.${name}`, width, width)
      for (const name of norms) tensor(`${block}.${name}.weight`, params.headDim)
      linear(`${block}.${mlp}.net.0.proj`, 4 * width, width)
      linear(`${block}.${mlp}.net.2`, width, 4 * width)
    }
  }
  for (const i of range(params.singleBlocks)) {
    const block = `single_transformer_blocks.${i}`
    linear(`${block}.norm.linear`, 3 * width, width)
    for (const name of ['to_q', 'to_k', 'to_v']) linear(`${block}.attn.${name}`, width, width)
    for (const name of ['norm_q', 'norm_k']) tensor(`${block}.attn.${name}.weight`, params.headDim)
    linear(`${block}.proj_mlp`, 4 * width, width)
    linear(`${block}.proj_out`, width, 5 * width)
  }
  linear('norm_out.linear', 2 * width, width)
  linear('proj_out', params.inChannels, width)
  return shapes
}

/** The autoencoder of a diffusers folder. */
export function autoencoderShapes(params: AutoencoderParams): Shapes {
  const { shapes, conv, affine, linear } = collector()
  const { channels, latentChannels, layersPerBlock } = params
  const first = channels[0]!
  const last = channels.at(-1)!
  const resnet = (name: string, from: number, to: number) => {
    affine(`${name}.norm1`, from)
    conv(`${name}.conv1`, to, from, 3)
    affine(`${name}.norm2`, to)
    conv(`${name}.conv2`, to, to, 3)
    if (from !== to) conv(`${name}.conv_shortcut`, to, from, 1)
  }
  const middle = (side: string) => {
    for (const i of range(2)) resnet(`${side}.mid_block.resnets.${i}`, last, last)
    affine(`${side}.mid_block.attentions.0.group_norm`, last)
    for (const name of ['to_q', 'to_k', 'to_v', 'to_out.0'])
      linear(`${side}.mid_block.attentions.0.${name}`, last, last)
  }
  const levels = (side: string, sizes: readonly number[], layers: number) => {
    const [blocks, samplers] =
      side === 'encoder' ? ['down_blocks', 'downsamplers'] : ['up_blocks', 'upsamplers']
    sizes.forEach((size, level) => {
      const from = sizes[Math.max(0, level - 1)]!
      for (const i of range(layers))
        resnet(`${side}.${blocks}.${level}.resnets.${i}`, i === 0 ? from : size, size)
      if (level < sizes.length - 1)
        conv(`${side}.${blocks}.${level}.${samplers}.0.conv`, size, size, 3)
    })
  }
  conv('encoder.conv_in', first, 3, 3)
  levels('encoder', channels, layersPerBlock)
  middle('encoder')
  affine('encoder.conv_norm_out', last)
  // Mean and logarithm of the variance.
  conv('encoder.conv_out', 2 * latentChannels, last, 3)
  conv('decoder.conv_in', last, latentChannels, 3)
  middle('decoder')
  levels('decoder', channels.toReversed(), layersPerBlock + 1)
  affine('decoder.conv_norm_out', first)
  conv('decoder.conv_out', 3, first, 3)
  return shapes
}

export function clipShapes(params: ClipParams): Shapes {
  const { shapes, tensor, linear, affine } = collector()
  const { hidden } = params
  tensor('text_model.embeddings.token_embedding.weight', params.vocabulary, hidden)
  tensor('text_model.embeddings.position_embedding.weight', params.positions, hidden)
  for (const i of range(params.layers)) {
    const layer = `text_model.encoder.layers.${i}`
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      linear(`${layer}.self_attn.${name}`, hidden, hidden)
    for (const name of ['layer_norm1', 'layer_norm2']) affine(`${layer}.${name}`, hidden)
    linear(`${layer}.mlp.fc1`, params.mlpHidden, hidden)
    linear(`${layer}.mlp.fc2`, hidden, params.mlpHidden)
  }
  affine('text_model.final_layer_norm', hidden)
  return shapes
}

export function t5Shapes(params: T5Params): Shapes {
  const { shapes, tensor } = collector()
  const { hidden, mlpHidden } = params
  const inner = params.heads * params.headDim
  tensor('shared.weight', params.vocabulary, hidden)
  for (const i of range(params.layers)) {
    const block = `encoder.block.${i}.layer`
    for (const name of ['q', 'k', 'v'])
      tensor(`${block}.0.SelfAttention.${name}.weight`, inner, hidden)
    tensor(`${block}.0.SelfAttention.o.weight`, hidden, inner)
    if (i === 0)
      tensor(
        `${block}.0.SelfAttention.relative_attention_bias.weight`,
        params.buckets,
        params.heads,
      )
    tensor(`${block}.0.layer_norm.weight`, hidden)
    for (const name of ['wi_0', 'wi_1'])
      tensor(`${block}.1.DenseReluDense.${name}.weight`, mlpHidden, hidden)
    tensor(`${block}.1.DenseReluDense.wo.weight`, hidden, mlpHidden)
    tensor(`${block}.1.layer_norm.weight`, hidden)
  }
  tensor('encoder.final_layer_norm.weight', hidden)
  return shapes
}
