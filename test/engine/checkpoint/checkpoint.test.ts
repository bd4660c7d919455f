/** Checkpoints that are damaged, incomplete or of another model: each is refused by name. */
import { cpSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { BflOverrides } from '../../../src/engine/checkpoint/bfl.js'
import {
  openBflTransformer,
  openCheckpoint,
  openLdmAutoencoder,
} from '../../../src/engine/checkpoint/checkpoint.js'
import { loadModels } from '../../../src/engine/models/models.js'
import { buildClipGraph, buildT5Graph } from '../../../src/engine/models/textEncoders.js'
import { buildTransformerGraphs } from '../../../src/engine/models/transformer.js'
import { buildAutoencoderGraphs } from '../../../src/engine/models/vae.js'
import { openSafetensors, type TensorSlice } from '../../../src/safetensors/read.js'
import { fixturePath } from '../../goldens.js'
import {
  type Shapes,
  type Stored,
  temporaryFolder,
  writeStored,
  writeTensors,
} from '../../weightFiles.js'

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

const readSlice = ({ file, offset, byteLength }: TensorSlice) =>
  readFileSync(file).subarray(offset, offset + byteLength)

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

  test('opens as a BFL file with the text encoders next to it', () => {
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
      'whose rotary axes do not add up',
      (f) => editConfig(join(f, config), { axes_dims_rope: [16, 56, 56] }),
      /expected axes_dims_rope that add up to attention_head_dim 16 but got 16,56,56$/,
    ],
    [
      'whose rotary axes are odd',
      (f) => editConfig(join(f, config), { axes_dims_rope: [5, 5, 6] }),
      /expected even axes_dims_rope but got 5,5,6$/,
    ],
    [
      'whose VAE has groups that do not divide its channels',
      (f) => editConfig(join(f, 'vae/config.json'), { norm_num_groups: 3 }),
      /vae\/config\.json: expected block_out_channels that 3 norm_num_groups divide but got /,
    ],
    [
      'whose CLIP has heads that do not divide its width',
      (f) => editConfig(join(f, 'text_encoder/config.json'), { num_attention_heads: 3 }),
      /expected a hidden_size that 3 num_attention_heads divide but got 16$/,
    ],
    [
      'whose T5 has no distances for its buckets',
      (f) =>
        editConfig(join(f, 'text_encoder_2/config.json'), { relative_attention_max_distance: 8 }),
      /a max_distance beyond a quarter of them but got 32 and 8$/,
    ],
    [
      'whose scheduler interpolates over nothing',
      (f) => editConfig(join(f, 'scheduler/scheduler_config.json'), { base_image_seq_len: 4096 }),
      /expected a base_image_seq_len below max_image_seq_len 4096 but got 4096$/,
    ],
    [
      'of pickles',
      (f) =>
        renameSync(
          join(f, 'vae/diffusion_pytorch_model.safetensors'),
          join(f, 'vae/diffusion_pytorch_model.bin'),
        ),
      /there is only diffusion_pytorch_model\.bin, a Python pickle, which is never opened/,
    ],
    [
      'whose weights are a web page',
      (f) =>
        writeFileSync(join(f, 'vae/diffusion_pytorch_model.safetensors'), '<!DOCTYPE html><html>'),
      /expected a safetensors file but it is a web page \(HTML\)$/,
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

  test('without an autoencoder next to it is refused', () => {
    const folder = copyOf('tiny-dev-bfl')
    renameSync(join(folder, 'ae.safetensors'), join(folder, 'other.safetensors'))
    expect(() => openCheckpoint(join(folder, 'flux1-dev.safetensors'), bfl)).toThrow(
      /expected ae\.safetensors or vae\/ next to/,
    )
  })
})

describe('a single file with more than a transformer in it', () => {
  const bfl = { axes: [4, 6, 6], groups: 4 } as const
  const stored = (path: string) => {
    const { tensors } = openSafetensors(fixturePath(path))
    const bytes = readFileSync(fixturePath(path))
    return [...tensors.values()].map(
      ({ name, dtype, shape, offset, byteLength }) =>
        [name, { dtype, shape, bytes: bytes.subarray(offset, offset + byteLength) }] as const,
    )
  }
  const transformer = stored('tiny-dev-bfl/flux1-dev.safetensors')
  const vae = stored('tiny-dev-bfl/ae.safetensors')
  const half = { dtype: 'BF16', shape: [1], bytes: new Uint8Array(2) }
  const write = (folder: string, prefix: string, others: Record<string, Stored>) =>
    writeStored(join(folder, 'flux.safetensors'), {
      ...others,
      ...Object.fromEntries(transformer.map(([name, tensor]) => [`${prefix}${name}`, tensor])),
    })
  const textEncoders = {
    'text_encoders.clip_l.transformer.text_model.final_layer_norm.weight': half,
    'text_encoders.t5xxl.transformer.shared.weight': half,
    'text_encoders.t5xxl.logit_scale': half,
  }
  const namedVae = (prefix: string) =>
    Object.fromEntries(vae.map(([name, tensor]) => [`${prefix}${name}`, tensor]))

  test.each(['', 'diffusion_model.', 'model.diffusion_model.', 'net.', 'transformer.model.'])(
    'opens as the transformer of its blocks: prefix %j',
    (prefix) => {
      const file = write(temporaryFolder(), prefix, { 'vae.decoder.conv_in.bias': half })
      const { params, weights } = openBflTransformer(file, bfl)
      const plain = openBflTransformer(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'), bfl)
      expect(params).toEqual(plain.params)
      expect([...weights.pristine.keys()]).toEqual([...plain.weights.pristine.keys()])
      const [name, slice] = [...weights.pristine].at(-1)!
      expect(readSlice(slice)).toEqual(readSlice(plain.weights.pristine.get(name)!))
    },
  )

  test.each(['vae.', 'first_stage_model.'])('brings its own autoencoder: %s', (prefix) => {
    const folder = temporaryFolder()
    for (const part of ['text_encoder', 'text_encoder_2', 'tokenizer', 'tokenizer_2'])
      cpSync(fixturePath(`tiny-dev/${part}`), join(folder, part), { recursive: true })
    const file = write(folder, 'model.diffusion_model.', { ...textEncoders, ...namedVae(prefix) })
    const { autoencoder } = check(file, bfl)
    const plain = openLdmAutoencoder(fixturePath('tiny-dev-bfl/ae.safetensors'), 4)
    expect(autoencoder.params).toEqual(plain.params)
    expect([...autoencoder.weights.pristine.keys()]).toEqual([...plain.weights.pristine.keys()])
  })

  test('is refused where it holds two transformers', () => {
    const other = Object.fromEntries(
      transformer.slice(0, 3).map(([, tensor], i) => [`ema.double_blocks.${i}.x.weight`, tensor]),
    )
    expect(() => openBflTransformer(write(temporaryFolder(), 'model.', other), bfl)).toThrow(
      /expected one transformer but there are blocks named \S+… and \S+…$/,
    )
  })
})

describe('a quantised checkpoint is refused by its method', () => {
  const layer = 'double_blocks.0.img_attn.proj'
  const packed = { dtype: 'U8', shape: [512, 1], bytes: new Uint8Array(512) }
  const write = (tensors: Record<string, Stored>) =>
    writeStored(join(temporaryFolder(), 'flux.safetensors'), tensors)
  test.each([
    [
      'NF4 of bitsandbytes',
      [`${layer}.weight.absmax`, `${layer}.weight.quant_state.bitsandbytes__nf4`],
    ],
    ['FP4 of bitsandbytes', [`${layer}.weight.quant_state.bitsandbytes__fp4`]],
    ['4 bits of bitsandbytes', [`${layer}.weight.nested_absmax`]],
    ['int8 of bitsandbytes', [`${layer}.SCB`]],
    ['SVDQuant of Nunchaku', [`${layer}.wscales`, `${layer}.qweight`]],
    ['GPTQ or AWQ', [`${layer}.qweight`, `${layer}.scales`]],
    ['NVFP4', [`${layer}.weight_scale_2`]],
    ['optimum-quanto', [`${layer}.weight._data`]],
  ])('%s', (method, names) => {
    const others = Object.fromEntries(names.map((name) => [name, packed]))
    for (const prefix of ['', 'model.diffusion_model.']) {
      const tensors = Object.entries({ [`${layer}.weight`]: packed, ...others })
      const file = write(Object.fromEntries(tensors.map(([name, t]) => [`${prefix}${name}`, t])))
      expect(() => openBflTransformer(file)).toThrow(
        `but it is quantised: ${method}, which is not supported`,
      )
    }
  })

  test('that is unknown, by the dtype of its weights', () => {
    expect(() => openBflTransformer(write({ [`${layer}.weight`]: packed }))).toThrow(
      `it is quantised: ${layer}.weight is U8 [512,1], which is not supported`,
    )
  })

  test('in a folder of diffusers, too', () => {
    const folder = copyOf('tiny-dev')
    const path = 'transformer/diffusion_pytorch_model.safetensors'
    rmSync(join(folder, `${path}.index.json`))
    writeStored(join(folder, path), {
      'transformer_blocks.0.attn.to_q.weight': packed,
      'transformer_blocks.0.attn.to_q.weight.quant_state.bitsandbytes__nf4': packed,
    })
    expect(() => check(folder)).toThrow(/transformer: \S+.*it is quantised: NF4 of bitsandbytes/)
  })
})

test('a path where nothing is is refused', () => {
  expect(() => openCheckpoint('/nowhere/flux')).toThrow(
    /expected a diffusers folder or a Flux\.1 \.safetensors file but nothing is there/,
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
