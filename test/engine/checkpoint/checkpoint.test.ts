/** Checkpoints that are damaged, incomplete or of another model: each is refused by name. */
import { cpSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { BflOverrides } from '../../../src/engine/checkpoint/bfl.js'
import { openCheckpoint } from '../../../src/engine/checkpoint/checkpoint.js'
import { loadModels } from '../../../src/engine/models/models.js'
import { buildClipGraph, buildT5Graph } from '../../../src/engine/models/textEncoders.js'
import { buildTransformerGraphs } from '../../../src/engine/models/transformer.js'
import { buildAutoencoderGraphs } from '../../../src/engine/models/vae.js'
import { fixturePath } from '../../goldens.js'
import { type Shapes, temporaryFolder, writeTensors } from '../../weightFiles.js'

/** A copy of a fixture's checkpoint that may be damaged. */
function copyOf(model: string): string {
  const folder = join(temporaryFolder(), model)
  cpSync(fixturePath(model), folder, { recursive: true })
  return folder
}

/** Everything that is checked before a session exists. */
function check(path: string, overrides: BflOverrides = {}) {
  const checkpoint = openCheckpoint(path, overrides)
  buildTransformerGraphs(checkpoint.transformer)
  buildAutoencoderGraphs(checkpoint.autoencoder)
  buildClipGraph(checkpoint.text.clip)
  buildT5Graph(checkpoint.text.t5)
  return checkpoint
}

function editConfig(path: string, change: Record<string, unknown>) {
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
}

const zeros = (shapes: Shapes) => (name: string) =>
  new Float32Array(shapes[name]!.reduce((a, b) => a * b, 1))

function singleFile(shapes: Shapes) {
  return writeTensors(join(temporaryFolder(), 'model.safetensors'), shapes, zeros(shapes))
}

describe('a sound checkpoint', () => {
  test.each(['tiny-dev', 'tiny-schnell'])('opens as a diffusers folder: %s', (model) => {
    const { transformer } = check(fixturePath(model))
    expect(transformer.params).toMatchObject({ heads: 2, headDim: 16, axes: [4, 6, 6] })
    expect(transformer.params.guidance).toBe(model === 'tiny-dev')
  })

  test('opens as a BFL file with the text encoders beside it', () => {
    const folder = copyOf('tiny-dev-bfl')
    for (const part of ['text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2'])
      cpSync(fixturePath(`tiny-dev/${part}`), join(folder, part), { recursive: true })
    const file = join(folder, 'flux1-dev.safetensors')
    const bfl = check(file, { axes: [4, 6, 6], groups: 4 })
    const diffusers = check(fixturePath('tiny-dev'))
    expect(bfl.transformer.params).toEqual(diffusers.transformer.params)
    expect(bfl.autoencoder.params.channels).toEqual(diffusers.autoencoder.params.channels)
    expect(bfl.scheduler).toEqual(diffusers.scheduler)
  })
})

describe('a damaged diffusers folder', () => {
  const shard = 'transformer/diffusion_pytorch_model-00002-of-00003.safetensors'
  const config = 'transformer/config.json'
  test.each<[string, (folder: string) => void, RegExp]>([
    [
      'without a VAE',
      (f) => rmSync(join(f, 'vae'), { recursive: true }),
      /expected a diffusers folder with vae\/ in it/,
    ],
    [
      'without a tokenizer',
      (f) => rmSync(join(f, 'tokenizer_2'), { recursive: true }),
      /expected tokenizer_2\/ there/,
    ],
    [
      'without a config',
      (f) => rmSync(join(f, config)),
      /config\.json: expected a readable JSON file/,
    ],
    [
      'without its weights',
      (f) => rmSync(join(f, 'vae/diffusion_pytorch_model.safetensors')),
      /vae: expected diffusion_pytorch_model\.safetensors or its \.index\.json/,
    ],
    [
      'without one of its shards',
      (f) => rmSync(join(f, shard)),
      /lists the shard diffusion_pytorch_model-00002-of-00003\.safetensors, which is missing/,
    ],
    [
      'with a truncated shard',
      (f) => truncateSync(join(f, shard), 60_000),
      /00002-of-00003\.safetensors: tensor .* is it truncated\?/,
    ],
    [
      'with the shards of two models',
      (f) =>
        cpSync(fixturePath('tiny-schnell/vae/diffusion_pytorch_model.safetensors'), join(f, shard)),
      /lists \S+ in diffusion_pytorch_model-00002-of-00003\.safetensors, which lacks it/,
    ],
    [
      'of another class',
      (f) => editConfig(join(f, config), { _class_name: 'SD3Transformer2DModel' }),
      /_class_name/,
    ],
    [
      'whose config says more blocks than it has',
      (f) => editConfig(join(f, config), { num_layers: 3 }),
      /expected tensor transformer_blocks\.2\.\S+ of shape \[\d+,\d+\] but it is missing/,
    ],
    [
      'whose config says fewer blocks than it has',
      (f) => editConfig(join(f, config), { num_single_layers: 2 }),
      /tensors have no place in this model, the first is single_transformer_blocks\.2\./,
    ],
    [
      'whose config says other heads than it has',
      (f) => editConfig(join(f, config), { num_attention_heads: 4 }),
      /expected tensor \S+ of shape \[64,\S+\] but it is \[32,/,
    ],
    [
      'whose config denies the guidance it has',
      (f) => editConfig(join(f, config), { guidance_embeds: false }),
      /the first is time_text_embed\.guidance_embedder/,
    ],
    [
      'of a Fill model',
      (f) => editConfig(join(f, config), { in_channels: 384 }),
      /expected 64 input channels but it has 384: a Flux\.1 Fill model/,
    ],
    [
      'with an unknown activation in CLIP',
      (f) => editConfig(join(f, 'text_encoder/config.json'), { hidden_act: 'gelu' }),
      /hidden_act/,
    ],
    [
      'whose VAE has another width',
      (f) => editConfig(join(f, 'vae/config.json'), { block_out_channels: [8, 16, 16, 32] }),
      /expected tensor decoder\.conv_in\.weight of shape \[32,16,3,3\] but it is \[16,16,3,3\]/,
    ],
    [
      'with T5 of another vocabulary',
      (f) => editConfig(join(f, 'text_encoder_2/config.json'), { vocab_size: 7 }),
      /expected tensor shared\.weight of shape \[7,24\]/,
    ],
  ])('%s is refused', (_, damage, message) => {
    const folder = copyOf('tiny-dev')
    damage(folder)
    expect(() => check(folder)).toThrow(message)
  })
})

describe('a single file', () => {
  const bfl = { axes: [4, 6, 6], groups: 4 } as const
  test.each<[string, Shapes, RegExp]>([
    [
      'a Stable Diffusion UNet',
      { 'model.diffusion_model.input_blocks.0.0.weight': [4] },
      /but this is a Stable Diffusion UNet/,
    ],
    [
      'a Stable Diffusion 3 transformer',
      { 'joint_blocks.0.x_block.attn.qkv.weight': [4] },
      /but this is a Stable Diffusion 3 transformer/,
    ],
    [
      'a LoRA',
      { 'lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight': [4] },
      /but this is a LoRA/,
    ],
    ['an autoencoder', { 'decoder.up.0.block.0.conv1.weight': [4] }, /but this is an autoencoder/],
    [
      'nothing known',
      { 'some.weight': [4] },
      /but this is a file of 1 tensors such as some\.weight/,
    ],
    [
      'a torso of Flux.1',
      { 'double_blocks.0.img_attn.norm.query_norm.scale': [16] },
      /expected tensor img_in\.weight but it is missing/,
    ],
  ])('that holds %s is refused', (_, shapes, message) => {
    expect(() => openCheckpoint(singleFile(shapes), bfl)).toThrow(message)
  })

  test('whose rotary axes do not fit its heads is refused', () => {
    const file = fixturePath('tiny-dev-bfl/flux1-dev.safetensors')
    expect(() => openCheckpoint(file)).toThrow(
      /expected rotary axes that add up to the head size 16 but they are 16,56,56/,
    )
  })

  test('without an autoencoder beside it is refused', () => {
    const folder = copyOf('tiny-dev-bfl')
    renameSync(join(folder, 'ae.safetensors'), join(folder, 'other.safetensors'))
    expect(() => openCheckpoint(join(folder, 'flux1-dev.safetensors'), bfl)).toThrow(
      /expected ae\.safetensors or vae\/ beside/,
    )
  })
})

test('a path where nothing is is refused', () => {
  expect(() => openCheckpoint('/nowhere/flux')).toThrow(
    /\/nowhere\/flux: expected a diffusers folder or a Flux\.1 \.safetensors file but nothing is there/,
  )
})

test('a checkpoint of the other variant is refused', async () => {
  await expect(loadModels('schnell', fixturePath('tiny-dev'), { threads: 1 })).rejects.toThrow(
    /expected a Flux\.1 schnell checkpoint but it is dev/,
  )
})

test('text encoders of another width than the transformer expects are refused', async () => {
  const folder = copyOf('tiny-dev')
  for (const [name, change] of [['transformer', { joint_attention_dim: 32 }]] as const)
    editConfig(join(folder, name, 'config.json'), change)
  await expect(loadModels('dev', folder, { threads: 1 })).rejects.toThrow(
    /the transformer expects T5 hidden states of width 32 but they are 24 wide/,
  )
})
