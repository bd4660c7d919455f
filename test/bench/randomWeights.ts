/**
 * Writes a checkpoint of Flux.1 with random weights, in bf16, so that loading, memory and speed can
 * be measured at full size (34 GB) without the published weights. Its pictures are noise.
 *
 *     node --import tsx test/bench/randomWeights.ts FOLDER [--layout diffusers|bfl]
 *          [--model dev|schnell] [--tiny]
 *
 * Tokenizers are those of the embedded model, widened to Flux.1's number of tokens.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type {
  AutoencoderParams,
  ClipParams,
  FluxParams,
  T5Params,
} from '../../src/engine/flux/params.js'
import { createRandomTensors } from './randomTensors.js'
import {
  autoencoderShapes,
  bflTransformerShapes,
  clipShapes,
  diffusersTransformerShapes,
  type Shapes,
  t5Shapes,
} from './tensorShapes.js'

type Sizes = {
  readonly flux: Omit<FluxParams, 'guidance'>
  readonly autoencoder: AutoencoderParams
  readonly clip: ClipParams
  readonly t5: T5Params
}

/** The sizes of the published networks. */
export const fullSizes: Sizes = {
  flux: {
    heads: 24,
    headDim: 128,
    doubleBlocks: 19,
    singleBlocks: 38,
    inChannels: 64,
    txtDim: 4096,
    vecDim: 768,
    axes: [16, 56, 56],
  },
  autoencoder: {
    channels: [128, 256, 512, 512],
    layersPerBlock: 2,
    latentChannels: 16,
    groups: 32,
    scalingFactor: 0.3611,
    shiftFactor: 0.1159,
  },
  clip: {
    hidden: 768,
    layers: 12,
    heads: 12,
    mlpHidden: 3072,
    vocabulary: 49408,
    positions: 77,
    epsilon: 1e-5,
  },
  t5: {
    hidden: 4096,
    layers: 24,
    heads: 64,
    headDim: 64,
    mlpHidden: 10240,
    vocabulary: 32128,
    buckets: 32,
    maxDistance: 128,
    epsilon: 1e-6,
  },
}

// Head size, groups and vocabularies stay: a BFL file cannot say the first two.
const tiny: Sizes = {
  flux: { ...fullSizes.flux, heads: 1, doubleBlocks: 1, singleBlocks: 1, txtDim: 32, vecDim: 16 },
  autoencoder: { ...fullSizes.autoencoder, channels: [32, 32, 64, 64], layersPerBlock: 1 },
  clip: { ...fullSizes.clip, hidden: 16, layers: 1, heads: 2, mlpHidden: 32, vocabulary: 1024 },
  t5: {
    ...fullSizes.t5,
    hidden: 32,
    layers: 1,
    heads: 2,
    headDim: 16,
    mlpHidden: 64,
    vocabulary: 1024,
  },
}

// The longest prompt that dev and schnell were trained with.
const t5Tokens = { dev: 512, schnell: 256 } as const
// As in the published repository: three files of the transformer, two of T5.
const transformerShards = 3
const t5Shards = 2

export type RandomCheckpoint = {
  readonly layout: 'diffusers' | 'bfl'
  readonly model: 'dev' | 'schnell'
  readonly tiny: boolean
}

/** Writes the checkpoint below `folder` and returns the path to open: the folder, or BFL's file. */
export function writeRandomCheckpoint(folder: string, wanted: RandomCheckpoint): string {
  const sizes = wanted.tiny ? tiny : fullSizes
  const params = { ...sizes.flux, guidance: wanted.model === 'dev' }
  const tensors = createRandomTensors(1)

  function component(name: string, configs: Readonly<Record<string, unknown>>) {
    const path = join(folder, name)
    mkdirSync(path, { recursive: true })
    for (const [file, content] of Object.entries(configs))
      writeFileSync(join(path, file), JSON.stringify(content, null, 2))
    return path
  }
  function shards(path: string, stem: string, shapes: Shapes, count: number) {
    const weightMap: Record<string, string> = {}
    splitShapes(shapes, count).forEach((part, i) => {
      const file = `${stem}-${number(i + 1)}-of-${number(count)}.safetensors`
      tensors.write(join(path, file), part)
      for (const name of part.keys()) weightMap[name] = file
    })
    const index = JSON.stringify({ metadata: {}, weight_map: weightMap })
    writeFileSync(join(path, `${stem}.safetensors.index.json`), index)
  }

  const vae = component('vae', { 'config.json': autoencoderConfig(sizes.autoencoder) })
  tensors.write(
    join(vae, 'diffusion_pytorch_model.safetensors'),
    autoencoderShapes(sizes.autoencoder),
  )
  const clip = component('text_encoder', { 'config.json': clipConfig(sizes.clip) })
  tensors.write(join(clip, 'model.safetensors'), clipShapes(sizes.clip))
  const t5 = component('text_encoder_2', { 'config.json': t5Config(sizes.t5) })
  shards(t5, 'model', t5Shapes(sizes.t5), t5Shards)
  copyTokenizers(folder, t5Tokens[wanted.model])

  if (wanted.layout === 'bfl') {
    const file = join(folder, `flux1-${wanted.model}.safetensors`)
    tensors.write(file, bflTransformerShapes(params))
    return file
  }
  component('scheduler', { 'scheduler_config.json': schedulerConfig(wanted.model) })
  const transformer = component('transformer', { 'config.json': transformerConfig(params) })
  shards(
    transformer,
    'diffusion_pytorch_model',
    diffusersTransformerShapes(params),
    transformerShards,
  )
  return folder
}

const number = (i: number) => String(i).padStart(5, '0')

/** Consecutive parts with about the same number of tensors. */
function splitShapes(shapes: Shapes, count: number): Shapes[] {
  const entries = [...shapes]
  const size = Math.ceil(entries.length / count)
  return Array.from({ length: count }, (_, i) => new Map(entries.slice(i * size, (i + 1) * size)))
}

function copyTokenizers(folder: string, tokens: number) {
  const embedded = new URL('../../models/tiny/dev/', import.meta.url)
  for (const name of ['tokenizer', 'tokenizer_2'])
    cpSync(new URL(name, embedded), join(folder, name), { recursive: true })
  const config = join(folder, 'tokenizer_2', 'tokenizer_config.json')
  const limits = { ...JSON.parse(readFileSync(config, 'utf8')), model_max_length: tokens }
  writeFileSync(config, JSON.stringify(limits))
}

const transformerConfig = (params: FluxParams) => ({
  _class_name: 'FluxTransformer2DModel',
  attention_head_dim: params.headDim,
  num_attention_heads: params.heads,
  num_layers: params.doubleBlocks,
  num_single_layers: params.singleBlocks,
  in_channels: params.inChannels,
  joint_attention_dim: params.txtDim,
  pooled_projection_dim: params.vecDim,
  guidance_embeds: params.guidance,
  patch_size: 1,
  axes_dims_rope: params.axes,
})

const autoencoderConfig = (params: AutoencoderParams) => ({
  _class_name: 'AutoencoderKL',
  block_out_channels: params.channels,
  layers_per_block: params.layersPerBlock,
  latent_channels: params.latentChannels,
  norm_num_groups: params.groups,
  scaling_factor: params.scalingFactor,
  shift_factor: params.shiftFactor,
})

const clipConfig = (params: ClipParams) => ({
  hidden_size: params.hidden,
  num_hidden_layers: params.layers,
  num_attention_heads: params.heads,
  intermediate_size: params.mlpHidden,
  vocab_size: params.vocabulary,
  max_position_embeddings: params.positions,
  layer_norm_eps: params.epsilon,
  hidden_act: 'quick_gelu',
})

const t5Config = (params: T5Params) => ({
  d_model: params.hidden,
  d_kv: params.headDim,
  d_ff: params.mlpHidden,
  num_layers: params.layers,
  num_heads: params.heads,
  vocab_size: params.vocabulary,
  relative_attention_num_buckets: params.buckets,
  relative_attention_max_distance: params.maxDistance,
  layer_norm_epsilon: params.epsilon,
  feed_forward_proj: 'gated-gelu',
})

const schedulerConfig = (model: RandomCheckpoint['model']) => ({
  _class_name: 'FlowMatchEulerDiscreteScheduler',
  use_dynamic_shifting: model === 'dev',
  shift: model === 'dev' ? 3 : 1,
})

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      layout: { type: 'string', default: 'diffusers' },
      model: { type: 'string', default: 'dev' },
      tiny: { type: 'boolean', default: false },
    },
  })
  const [folder] = positionals
  const { layout, model } = values
  if (!folder || (layout !== 'diffusers' && layout !== 'bfl'))
    throw new Error('usage: randomWeights.ts FOLDER [--layout diffusers|bfl] [--model dev|schnell]')
  if (model !== 'dev' && model !== 'schnell') throw new Error(`no model ${model}: dev or schnell`)
  const startedAt = performance.now()
  const path = writeRandomCheckpoint(folder, { layout, model, tiny: values.tiny })
  console.log(`${path}: written in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) main()
