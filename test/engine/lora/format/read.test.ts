/** How keys of every scheme are read, and what is refused. tiny-dev: 2 + 3 blocks, width 32. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Delta, LoraAdapter } from '../../../../src/engine/lora/format/adapter.js'
import { openLora, readLora } from '../../../../src/engine/lora/format/read.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { fixturePath } from '../../../goldens.js'
import { temporaryFolder } from '../../../weightFiles.js'
import { number, values, writeLora } from '../loraFiles.js'
import { tinyDev } from '../tinyDev.js'

const clip = {
  hidden: 16,
  mlpHidden: 32,
  layers: 2,
  heads: 2,
  vocabulary: 600,
  positions: 77,
  epsilon: 1e-5,
}
const base = { transformer: tinyDev.params, clip }

const read = (path: string, networks: Parameters<typeof readLora>[1] = base) =>
  readLora(openSafetensors(path), networks)

const delta = (adapter: LoraAdapter, name: string): Delta => {
  const [only, ...more] = adapter.deltas.get(name) ?? []
  expect(more).toEqual([])
  return only!
}

describe('a pair of tensors', () => {
  const qkv = (block: string) => ['to_q', 'to_k', 'to_v'].map((part) => `${block}.attn.${part}`)
  const addedQkv = (block: string) =>
    ['add_q_proj', 'add_k_proj', 'add_v_proj'].map((part) => `${block}.attn.${part}`)
  const linear1 = [...qkv('single_transformer_blocks.2'), 'single_transformer_blocks.2.proj_mlp']
  const [ab, upDown] = [
    ['lora_A.weight', 'lora_B.weight'],
    ['lora_down.weight', 'lora_up.weight'],
  ] as const

  type PairCase = [string, string, readonly [string, string], string[], [number, number]]
  test.each<PairCase>([
    [
      'diffusers',
      'transformer.transformer_blocks.1.attn.to_q.',
      ab,
      ['transformer_blocks.1.attn.to_q'],
      [32, 32],
    ],
    [
      'diffusers',
      'transformer.transformer_blocks.1.attn.to_out.0.',
      ['lora_A.default.weight', 'lora_B.default.weight'],
      ['transformer_blocks.1.attn.to_out.0'],
      [32, 32],
    ],
    [
      'diffusers',
      'transformer.proj_out.',
      ['lora.down.weight', 'lora.up.weight'],
      ['proj_out'],
      [64, 32],
    ],
    [
      'diffusers',
      'transformer.x_embedder',
      ['_lora.down.weight', '_lora.up.weight'],
      ['x_embedder'],
      [32, 64],
    ],
    ['diffusers', 'transformer.context_embedder.', upDown, ['context_embedder'], [32, 24]],
    [
      'diffusers',
      'transformer.norm_out.linear.',
      ab,
      ['norm_out.scale', 'norm_out.shift'],
      [64, 32],
    ],
    [
      'diffusers',
      'transformer.transformer_blocks.0.attn.to_qkv.',
      ab,
      qkv('transformer_blocks.0'),
      [96, 32],
    ],
    [
      'diffusers',
      'transformer.time_text_embed.text_embedder.linear_1.',
      ab,
      ['time_text_embed.text_embedder.linear_1'],
      [32, 16],
    ],
    [
      'bare',
      'single_transformer_blocks.2.norm.linear.',
      ab,
      ['single_transformer_blocks.2.norm.linear'],
      [96, 32],
    ],
    ['bare', 'double_blocks.0.img_attn.qkv.', ab, qkv('transformer_blocks.0'), [96, 32]],
    [
      'kohya',
      'lora_unet_double_blocks_0_txt_attn_qkv.',
      upDown,
      addedQkv('transformer_blocks.0'),
      [96, 32],
    ],
    ['kohya', 'lora_unet_single_blocks_2_linear1.', upDown, linear1, [224, 32]],
    [
      'kohya',
      'lora_unet_single_blocks_2_linear2.',
      upDown,
      ['single_transformer_blocks.2.proj_out'],
      [32, 160],
    ],
    [
      'kohya',
      'lora_unet_double_blocks_1_img_mlp_0.',
      upDown,
      ['transformer_blocks.1.ff.net.0.proj'],
      [128, 32],
    ],
    [
      'kohya',
      'lora_unet_time_in_in_layer.',
      upDown,
      ['time_text_embed.timestep_embedder.linear_1'],
      [32, 256],
    ],
    [
      'kohya',
      'lora_unet_final_layer_adaLN_modulation_1.',
      upDown,
      ['norm_out.shift', 'norm_out.scale'],
      [64, 32],
    ],
    ['comfy', 'diffusion_model.single_blocks.2.linear1_qkv.', ab, linear1.slice(0, 3), [96, 32]],
    [
      'comfy',
      'diffusion_model.double_blocks.1.txt_mod.lin.',
      upDown,
      ['transformer_blocks.1.norm1_context.linear'],
      [192, 32],
    ],
    [
      'onetrainer',
      'lora_transformer_transformer_blocks_1_ff_context_net_2.',
      upDown,
      ['transformer_blocks.1.ff_context.net.2'],
      [32, 128],
    ],
    [
      'lycoris',
      'lycoris_transformer_blocks_1_attn_to_out_0.',
      upDown,
      ['transformer_blocks.1.attn.to_out.0'],
      [32, 32],
    ],
    [
      'fal',
      'base_model.model.guidance_in.out_layer.',
      ab,
      ['time_text_embed.guidance_embedder.linear_2'],
      [32, 32],
    ],
    [
      'xlabs',
      'double_blocks.1.processor.qkv_lora2.',
      ['down.weight', 'up.weight'],
      addedQkv('transformer_blocks.1'),
      [96, 32],
    ],
    [
      'xlabs',
      'double_blocks.1.processor.proj_lora1.',
      ['down.weight', 'up.weight'],
      ['transformer_blocks.1.attn.to_out.0'],
      [32, 32],
    ],
    [
      'xlabs',
      'single_blocks.2.processor.qkv_lora.',
      ['down.weight', 'up.weight'],
      linear1.slice(0, 3),
      [96, 32],
    ],
    [
      'xlabs',
      'diffusion_model.single_blocks.2.processor.proj_lora.',
      ['down.weight', 'up.weight'],
      ['single_transformer_blocks.2.proj_out'],
      [32, 160],
    ],
    [
      'kohya',
      'lora_te1_text_model_encoder_layers_1_self_attn_out_proj.',
      upDown,
      ['text_model.encoder.layers.1.self_attn.out_proj'],
      [16, 16],
    ],
    [
      'diffusers',
      'text_encoder.text_model.encoder.layers.0.mlp.fc1.',
      ab,
      ['text_model.encoder.layers.0.mlp.fc1'],
      [32, 16],
    ],
    [
      'diffusers',
      'text_encoder.text_model.encoder.layers.0.self_attn.to_q',
      ['_lora.down.weight', '_lora.up.weight'],
      ['text_model.encoder.layers.0.self_attn.q_proj'],
      [16, 16],
    ],
    [
      'diffusers',
      'text_encoder.text_model.encoder.layers.0.self_attn.k_proj.',
      ['lora_linear_layer.down.weight', 'lora_linear_layer.up.weight'],
      ['text_model.encoder.layers.0.self_attn.k_proj'],
      [16, 16],
    ],
    [
      'comfy',
      'text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc2.',
      ab,
      ['text_model.encoder.layers.0.mlp.fc2'],
      [16, 32],
    ],
    ...['transformer.', 'diffusion_model.', 'lora_unet_', 'lora_transformer_'].flatMap((prefix) => {
      const spelled = (name: string) =>
        prefix.endsWith('_') ? `${prefix}${name.replaceAll('.', '_')}.` : `${prefix}${name}.`
      const scheme = {
        'transformer.': 'diffusers',
        'diffusion_model.': 'comfy',
        lora_unet_: 'kohya',
        lora_transformer_: 'onetrainer',
      }[prefix]!
      const parts = (name: string, layers: string[], rows: number[]) =>
        layers.map(
          (layer, i): PairCase => [
            scheme,
            spelled(`${name}.${i}`),
            upDown,
            [layer],
            [rows[i]!, 32],
          ],
        )
      return [
        ...parts('double_blocks.0.img_attn.qkv', qkv('transformer_blocks.0'), [32, 32, 32]),
        ...parts('double_blocks.0.txt_attn.qkv', addedQkv('transformer_blocks.0'), [32, 32, 32]),
        ...parts('single_blocks.2.linear1', linear1, [32, 32, 32, 128]),
      ]
    }),
  ])('%s: %s', (scheme, stem, [down, up], layers, [rows, columns]) => {
    const file = writeLora({ [`${stem}${down}`]: [2, columns], [`${stem}${up}`]: [rows, 2] })
    const adapter = read(file)
    expect(adapter).toMatchObject({ scheme, source: file, ignored: [] })
    expect([...adapter.deltas.keys()]).toEqual(layers.map((layer) => `${layer}.weight`))
    // The parts follow each other in the file and cover all rows.
    let offset = openSafetensors(file).tensors.get(`${stem}${up}`)!.offset
    for (const [change] of adapter.deltas.values()) {
      expect(change).toMatchObject({ kind: 'lowRank', factor: 1, down: { shape: [2, columns] } })
      const { up: part } = change as Extract<Delta, { kind: 'lowRank' }>
      expect(part.offset).toBe(offset)
      offset += part.byteLength
    }
    expect(offset).toBe(openSafetensors(file).tensors.get(`${stem}${up}`)!.offset + rows * 8)
  })
})

/** What `to_q` of block 0 is changed by, in a file of these two keys. */
function readPair(downKey: string, upKey: string, layer: string, size = 32) {
  const adapter = read(writeLora({ [downKey]: [2, size], [upKey]: [size, 2] }))
  expect(adapter.ignored).toEqual([])
  expect([...adapter.deltas.keys()]).toEqual([`${layer}.weight`])
}

test.each([
  ['.lora_A', '.lora_B'],
  ['.lora_A.default_0.weight', '.lora_B.default_0.weight'],
  ['.lora_A.mystyle.weight', '.lora_B.mystyle.weight'],
  ['.lora_A.weight.weight', '.lora_B.weight.weight'],
  ['.lora_down', '.lora_up'],
  ['.lora_down.default.weight', '.lora_up.default.weight'],
])('an adapter may have any name, and none: %s', (down, up) => {
  const q = 'transformer.transformer_blocks.0.attn.to_q'
  readPair(`${q}${down}`, `${q}${up}`, 'transformer_blocks.0.attn.to_q')
})

test('an adapter has its name in magnitudes and biases too, and in what is missing', () => {
  const q = 'transformer.transformer_blocks.0.attn.to_q'
  const pair = { [`${q}.lora_A.x.weight`]: [2, 32], [`${q}.lora_B.x.weight`]: [32, 2] }
  const bias = read(writeLora({ ...pair, [`${q}.lora_B.x.bias`]: [32] }))
  expect([...bias.deltas.keys()]).toEqual(
    ['weight', 'bias'].map((part) => `transformer_blocks.0.attn.to_q.${part}`),
  )
  for (const ending of ['.x', '.x.weight', '.weight', '']) {
    const dora = read(writeLora({ ...pair, [`${q}.lora_magnitude_vector${ending}`]: [32] }))
    expect(delta(dora, 'transformer_blocks.0.attn.to_q.weight').kind).toBe('dora')
  }
  expect(() => read(writeLora({ [`${q}.lora_A.x.weight`]: [2, 32] }))).toThrow(
    /expected \S+to_q\.lora_B\.x\.weight to go with/,
  )
})

describe('wrappers around a name', () => {
  const dotted = 'transformer_blocks.0.attn.to_q'
  const flat = dotted.replaceAll('.', '_')
  test.each([
    `transformer.base_model.model.${dotted}`,
    `base_model.model.transformer.${dotted}`,
    `transformer._orig_mod.${dotted}`,
    `_orig_mod.${dotted}`,
    `module.${dotted}`,
    `model.${dotted}`,
    `model.diffusion_model.${dotted}`,
    `unet.${dotted}`,
    `unet.base_model.model.${dotted}`,
    `pipe.dit.${dotted}`,
    `net.${dotted}`,
    `my_trainer.${dotted}`,
    `lora_unet.${dotted}`,
    `transformer._fsdp_wrapped_module.module.${dotted}`,
    'transformer.transformer_blocks.0._checkpoint_wrapped_module.attn.to_q',
    'transformer.transformer_blocks.0.attn.to_q.base_layer',
    'transformer.transformer_blocks.0.attn.processor.to_q',
    'diffusion_model.double_blocks.0.img_attn.qkv.0',
    `lora_unet_${flat}`,
    `lora_unet_${flat}_`,
    `lora_${flat}`,
    `lora_unet__orig_mod_${flat}`,
    `lora_transformer_${flat}`,
    `lycoris_${flat}`,
    `lycoris_transformer_${flat}`,
    `lora_unet_base_model_model_${flat}`,
    `diffusion_model.${flat}`,
  ])('are removed: %s', (stem) => {
    readPair(`${stem}.lora_down.weight`, `${stem}.lora_up.weight`, dotted)
  })

  const fc1 = 'text_model.encoder.layers.0.self_attn.q_proj'
  test.each([
    fc1,
    `text_encoder.base_model.model.${fc1}`,
    `text_encoder.${fc1}`,
    `clip_l.transformer.${fc1}`,
    `clip_l.${fc1}`,
    `text_encoders.clip_l.transformer.${fc1}`,
    `lora_te_${fc1.replaceAll('.', '_')}`,
    `lora_te1_${fc1.replaceAll('.', '_')}`,
    `lora_clip_l_${fc1.replaceAll('.', '_')}`,
    `lycoris_te1_${fc1.replaceAll('.', '_')}`,
  ])('are removed from CLIP: %s', (stem) => {
    readPair(`${stem}.lora_down.weight`, `${stem}.lora_up.weight`, fc1, 16)
  })

  test.each([
    'controlnet.',
    'transformer_2.',
    'text_encoder.',
    'ip_adapter.',
    'image_encoder.',
    'transformer.extra_blocks.',
    'transformer.0.',
    'transformer.attn.',
    'lora_controlnet_',
  ])('are not those of another network: %s', (prefix) => {
    const name = prefix.endsWith('_') ? flat : dotted
    const file = { [`${prefix}${name}.lora_down.weight`]: [2, 32] }
    expect(() => read(writeLora(file))).toThrow(/names no layer of it$/)
  })
})

describe('alpha over rank', () => {
  const name = 'transformer.transformer_blocks.0.attn.to_q'
  const pair = { [`${name}.lora_A.weight`]: [4, 32], [`${name}.lora_B.weight`]: [32, 4] }
  const factor = (path: string) =>
    (delta(read(path), 'transformer_blocks.0.attn.to_q.weight') as { factor: number }).factor

  test.each<[string, number[], number[]]>([
    ['F32', [], [...new Uint8Array(Float32Array.of(6).buffer)]],
    ['F64', [], [...new Uint8Array(Float64Array.of(6).buffer)]],
    ['F16', [], [0x00, 0x46]],
    ['BF16', [1], [0xc0, 0x40]],
    ['I64', [1], [6, 0, 0, 0, 0, 0, 0, 0]],
    ['I32', [], [6, 0, 0, 0]],
    ['U32', [], [6, 0, 0, 0]],
    ['U64', [], [6, 0, 0, 0, 0, 0, 0, 0]],
    ['I16', [1, 1], [6, 0]],
    ['U16', [], [6, 0]],
    ['I8', [], [6]],
    ['U8', [], [6]],
    ['F8_E4M3', [], [0x4c]],
    ['F8_E4M3FNUZ', [], [0x54]],
    ['F8_E5M2', [], [0x46]],
    ['F8_E5M2FNUZ', [], [0x4a]],
  ])('reads an alpha of 6 in %s [%s]', (dtype, shape, bytes) => {
    const alpha = { dtype, shape, bytes: Uint8Array.from(bytes) }
    expect(factor(writeLora({ [`${name}.alpha`]: alpha, ...pair }))).toBe(1.5)
  })

  test('is 1 without an alpha and 0 with an alpha of 0', () => {
    expect(factor(writeLora(pair))).toBe(1)
    expect(factor(writeLora({ [`${name}.alpha`]: number(0), ...pair }))).toBe(0)
  })

  test.each([
    [0, 0],
    [1, 0.25],
  ])('reads a BOOL of %i', (byte, expected) => {
    const alpha = { dtype: 'BOOL', shape: [], bytes: Uint8Array.of(byte) }
    expect(factor(writeLora({ [`${name}.alpha`]: alpha, ...pair }))).toBe(expected)
  })
})

describe('what is not merged', () => {
  const layer = (name: string) => ({
    [`${name}.lora_A.weight`]: [2, 32],
    [`${name}.lora_B.weight`]: [32, 2],
  })
  const q = layer('transformer.transformer_blocks.0.attn.to_q')

  test.each([
    'lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight',
    'text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight',
    'text_encoder.text_projection.lora_A.weight',
    'text_encoders.clip_l.logit_scale.diff',
    't5xxl.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight',
    'text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight',
    'bundle_emb.word.clip_l',
    'emb_params',
    'global_step',
    'transformer.transformer_blocks.1.attn.to_q.alpha',
  ])('is named: %s', (key) => {
    expect(read(writeLora({ ...q, [key]: [2, 7] })).ignored).toEqual([key])
  })

  const zeros = (dtype: string, shape: number[], bytes: number) => ({
    dtype,
    shape,
    bytes: new Uint8Array(bytes),
  })
  const unknown = 'transformer.some_blocks.0.layer'
  test.each<[string, Parameters<typeof writeLora>[0]]>([
    ['whose diff is zero', { [`${unknown}.diff`]: zeros('F32', [8], 32) }],
    [
      'whose diff is minus zero',
      { [`${unknown}.diff`]: values(new Float32Array(8).fill(-0), [8]) },
    ],
    [
      'whose up is zero',
      {
        [`${unknown}.alpha`]: number(4),
        [`${unknown}.lora_down.weight`]: [2, 32],
        [`${unknown}.lora_up.weight`]: zeros('BF16', [32, 2], 128),
      },
    ],
    [
      'whose alpha is zero',
      {
        [`${unknown}.alpha`]: number(0),
        [`${unknown}.lora_down.weight`]: [2, 32],
        [`${unknown}.lora_up.weight`]: [32, 2],
      },
    ],
    ['that is empty', { [`${unknown}.lora_up.weight`]: [0, 4] }],
  ])('is a layer of no network %s', (_, tensors) => {
    expect(read(writeLora({ ...q, ...tensors })).ignored).toEqual(Object.keys(tensors))
  })

  test.each<[string, Parameters<typeof writeLora>[0]]>([
    ['diff is not zero', { [`${unknown}.diff`]: [8] }],
    [
      'up is not zero',
      {
        [`${unknown}.lora_down.weight`]: [2, 32],
        [`${unknown}.lora_up.weight`]: values(
          Float32Array.of(...Array(63).fill(0), 1e-30),
          [32, 2],
        ),
      },
    ],
    [
      'magnitudes are not zero',
      {
        [`${unknown}.dora_scale`]: [32, 1],
        [`${unknown}.lora_down.weight`]: [2, 32],
        [`${unknown}.lora_up.weight`]: zeros('F32', [32, 2], 256),
      },
    ],
  ])('is no layer of any network whose %s: it is refused', (_, tensors) => {
    expect(() => read(writeLora({ ...q, ...tensors }))).toThrow(/names no layer of it$/)
  })

  test('is CLIP where the caller has none', () => {
    const key = 'text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight'
    expect(
      read(writeLora({ ...q, [key]: [2, 16] }), { transformer: tinyDev.params }).ignored,
    ).toEqual([key])
  })

  test('is the guidance embedder on schnell', () => {
    const guidance = layer('transformer.time_text_embed.guidance_embedder.linear_2')
    const schnell = { ...tinyDev.params, guidance: false }
    const adapter = read(writeLora({ ...q, ...guidance }), { transformer: schnell })
    expect(adapter.ignored).toEqual(Object.keys(guidance))
    expect([...adapter.deltas.keys()]).toEqual(['transformer_blocks.0.attn.to_q.weight'])
  })
})

describe('a file is refused', () => {
  const q = 'transformer.transformer_blocks.0.attn.to_q'
  const A = `${q}.lora_A.weight`
  const B = `${q}.lora_B.weight`
  const sound = { [A]: [4, 32], [B]: [32, 4] }
  const spoilt = (value: number) => {
    const data = new Float32Array(128)
    data[77] = value
    return values(data, [4, 32])
  }
  const metadata = (text: string) => ({ lora_adapter_metadata: text })
  const pickle = (first: number[]) => {
    const path = join(temporaryFolder(), 'lora.pt')
    writeFileSync(path, Uint8Array.from([...first, ...new Array(20).fill(255)]))
    return path
  }
  const fiveBits = (name: string) => {
    const path = join(temporaryFolder(), 'lora.safetensors')
    const header = JSON.stringify({ [name]: { dtype: 'F5', shape: [2], data_offsets: [0, 1] } })
    writeFileSync(path, `${String.fromCharCode(header.length)}${'\0'.repeat(7)}${header}-`)
    return path
  }

  test.each<[string, () => string, RegExp]>([
    [
      'that is missing',
      () => '/nowhere/lora.safetensors',
      /^\/nowhere\/lora\.safetensors: expected a readable safetensors file/,
    ],
    [
      'that is a zipped pickle',
      () => pickle([0x50, 0x4b, 3, 4]),
      /lora\.pt: expected a safetensors file but it is a Python pickle or another zip archive/,
    ],
    [
      'that is a bare pickle',
      () => pickle([0x80, 2]),
      /lora\.pt: expected a safetensors file but it is a Python pickle \(\.pt, \.ckpt, \.bin\)$/,
    ],
    [
      'with nothing in it',
      () => writeLora({}),
      /expected changes to at least one layer of Flux\.1 but the file holds no tensors$/,
    ],
    [
      'with nothing but T5',
      () => writeLora({ 'lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha': number(1) }),
      /that are not merged, the first is lora_te3_encoder_block_0_layer_0_SelfAttention_q\.alpha$/,
    ],
    [
      'with an unknown layer',
      () =>
        writeLora({
          ...sound,
          'transformer.transformer_blocks.0.attn.to_z.lora_A.weight': [4, 32],
        }),
      /but transformer\.transformer_blocks\.0\.attn\.to_z\.lora_A\.weight names no layer of it$/,
    ],
    [
      'with an unknown role',
      () => writeLora({ [`${q}.lora_C.weight`]: [4, 32], ...sound }),
      /ends in \.lora_C\.weight, which is no known part of a layer's change$/,
    ],
    [
      'with a tensor of no known dtype',
      () => fiveBits(q),
      /tensor \S+to_q: dtype: Invalid option: expected one of [^\n]+$/,
    ],
    [
      'for a whole checkpoint',
      () => fixturePath('tiny-dev-bfl/flux1-dev.safetensors'),
      /expected a LoRA but none of its tensors is a LoRA's, such as double_blocks\.0\.\S+$/,
    ],
    [
      'for Stable Diffusion XL',
      () =>
        writeLora({
          'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight': [4, 640],
        }),
      /names no layer of it, which is of a LoRA for Stable Diffusion XL$/,
    ],
    [
      'for Stable Diffusion 1',
      () =>
        writeLora({ 'lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight': [4, 320] }),
      /which is of a LoRA for Stable Diffusion 1, 2 or XL$/,
    ],
    [
      'for FLUX.2',
      () =>
        writeLora({ 'transformer.double_stream_modulation_img.linear.lora_A.weight': [4, 6144] }),
      /which is of a LoRA for FLUX\.2$/,
    ],
    [
      'for Qwen-Image',
      () => writeLora({ 'transformer_blocks.0.img_mlp.net.2.lora_A.weight': [4, 3072] }),
      /which is of a LoRA for Qwen-Image$/,
    ],
    [
      'for Wan',
      () => writeLora({ 'diffusion_model.blocks.0.cross_attn.k.lora_A.weight': [4, 1536] }),
      /which is of a LoRA for Wan$/,
    ],
    [
      'with a double block too many',
      () => writeLora({ 'transformer.transformer_blocks.2.attn.to_q.lora_A.weight': [4, 32] }),
      /is of a block that this model does not have$/,
    ],
    [
      'with a single block too many',
      () => writeLora({ 'lora_unet_single_blocks_37_linear1.lora_up.weight': [224, 1] }),
      /is of a block that this model does not have$/,
    ],
    [
      'of a wider model',
      () => writeLora({ [A]: [4, 64], [B]: [64, 4] }),
      /of shape \[r,32\] but it is \[4,64\]; is the LoRA for another model\?$/,
    ],
    [
      'with other outputs',
      () => writeLora({ [A]: [4, 32], [B]: [96, 4] }),
      /of shape \[32,r\] but it is \[96,4\]; is the LoRA for another model\?$/,
    ],
    [
      'whose ranks differ',
      () => writeLora({ [A]: [4, 32], [B]: [32, 8] }),
      /\S+to_q\.lora_B\.weight of rank 4, as \S+to_q\.lora_A\.weight has it, but it is \[32,8\]$/,
    ],
    [
      'of rank 0',
      () => writeLora({ [A]: [0, 32], [B]: [32, 0] }),
      /the file holds only 2 tensors that are not merged, the first is \S+to_q\.lora_A\.weight$/,
    ],
    [
      'of a 3×3 convolution',
      () => writeLora({ [A]: [4, 32, 3, 3], [B]: [32, 4] }),
      /expected a matrix in \S+to_q\.lora_A\.weight but it is \[4,32,3,3\]$/,
    ],
    [
      'without its up',
      () => writeLora({ [A]: [4, 32] }),
      /to go with \S+lora_A\.weight but it is missing$/,
    ],
    [
      'without its down',
      () => writeLora({ [B]: [32, 4] }),
      /expected \S+to_q\.lora_A\.weight to go with \S+lora_B\.weight but it is missing$/,
    ],
    [
      'with an alpha alone',
      () => writeLora({ [`${q}.alpha`]: number(4) }),
      /but the file holds only 1 tensors that are not merged, the first is \S+to_q\.alpha$/,
    ],
    [
      'with an alpha of NaN',
      () => writeLora({ [`${q}.alpha`]: number(Number.NaN), ...sound }),
      /expected a finite number in \S+to_q\.alpha but it is NaN$/,
    ],
    [
      'with an alpha that float32 does not hold',
      () => {
        const bytes = new Uint8Array(Float64Array.of(1e300).buffer)
        return writeLora({ [`${q}.alpha`]: { dtype: 'F64', shape: [], bytes }, ...sound })
      },
      /expected a finite number in \S+to_q\.alpha but it is 1e\+300$/,
    ],
    [
      'with such an alpha in its metadata',
      () => writeLora(sound, metadata('{"transformer.r": 4, "transformer.lora_alpha": 4e300}')),
      /expected a finite alpha of \S+to_q in lora_adapter_metadata but alpha \/ rank is 1e\+300$/,
    ],
    [
      'with an alpha of two numbers',
      () => writeLora({ [`${q}.alpha`]: [2], ...sound }),
      /expected \S+to_q\.alpha to be one number but it is F32 \[2\]$/,
    ],
    [
      'with NaN',
      () => writeLora({ ...sound, [A]: spoilt(Number.NaN) }),
      /expected finite values but \S+to_q\.lora_A\.weight holds NaN or Inf$/,
    ],
    [
      'with infinity',
      () => writeLora({ ...sound, [A]: spoilt(Number.NEGATIVE_INFINITY) }),
      /expected finite values but \S+to_q\.lora_A\.weight holds NaN or Inf$/,
    ],
    [
      'of packed floats',
      () =>
        writeLora({ ...sound, [A]: { dtype: 'F4', shape: [4, 32], bytes: new Uint8Array(64) } }),
      /expected \S+to_q\.lora_A\.weight in a dtype of numbers, one by one, but it is F4$/,
    ],
    [
      'with one layer twice',
      () => writeLora({ ...sound, 'transformer_blocks.0.attn.to_q.lora_A.weight': [4, 32] }),
      /to go with \S+lora_A\.weight but it is missing$/,
    ],
    [
      'with one tensor twice',
      () => writeLora({ ...sound, [`${q}.lora_down.weight`]: [4, 32] }),
      /one change per layer but got \S+to_q\.lora_down\.weight and \S+to_q\.lora_A\.weight$/,
    ],
    [
      'with a fused layer and one of its parts',
      () => writeLora({ ...sound, 'transformer.transformer_blocks.0.attn.to_qkv.diff': [96, 32] }),
      /is changed by \S+to_qkv and, differently, by transformer\.\S+to_q$/,
    ],
    [
      'with magnitudes and nothing but a bias',
      () => writeLora({ [`${q}.dora_scale`]: [32, 1], [`${q}.diff_b`]: [32] }),
      /expected a change to go with \S+to_q\.dora_scale but there is none$/,
    ],
    [
      'with the bias of an up that is not there',
      () => writeLora({ [`${q}.lora_B.bias`]: [32] }),
      /expected \S+to_q\.lora_A\.weight to go with \S+to_q\.lora_B\.bias but it is missing$/,
    ],
    [
      'that is a control LoRA by its norms',
      () => writeLora({ ...sound, 'double_blocks.0.img_attn.norm.query_norm.scale': [16] }),
      /replaces one: this is a Flux\.1 control LoRA \(Canny or Depth\), which is not supported$/,
    ],
    [
      'that is a control LoRA by its input',
      () => writeLora({ 'img_in.lora_A.weight': [4, 128], 'img_in.lora_B.weight': [32, 4] }),
      /128: it makes the model a Flux\.1 Canny or Depth control model, which is not supported$/,
    ],
    [
      'that is for Fill',
      () =>
        writeLora({
          'transformer.x_embedder.lora_A.weight': [4, 384],
          'transformer.x_embedder.lora_B.weight': [32, 4],
        }),
      /takes 384: it makes the model a Flux\.1 Fill model, which is not supported$/,
    ],
    [
      'with metadata that is no JSON',
      () => writeLora(sound, metadata('{')),
      /expected JSON in lora_adapter_metadata$/,
    ],
    [
      'with metadata that lacks the rank',
      () => writeLora(sound, metadata('{"transformer.lora_alpha": 4}')),
      /lora_adapter_metadata: r: [^\n]+$/,
    ],
    [
      'whose metadata names another rank',
      () => writeLora(sound, metadata('{"transformer.r": 8, "transformer.lora_alpha": 8}')),
      /expected \S+to_q of rank 8, as lora_adapter_metadata says, but it is 4$/,
    ],
    [
      'of LoHa with other ranks',
      () =>
        writeLora({
          [`${q}.hada_w1_a`]: [32, 4],
          [`${q}.hada_w1_b`]: [4, 32],
          [`${q}.hada_w2_a`]: [32, 4],
          [`${q}.hada_w2_b`]: [2, 32],
        }),
      /expected \S+hada_w2_a of rank 2, as \S+hada_w2_b has it, but it is \[32,4\]$/,
    ],
    [
      'of LoHa without its second half',
      () => writeLora({ [`${q}.hada_w1_a`]: [32, 4], [`${q}.hada_w1_b`]: [4, 32] }),
      /expected \S+to_q\.hada_w2_b to go with \S+hada_w1_b but it is missing$/,
    ],
    [
      'of LoKr whose product has another shape',
      () => writeLora({ [`${q}.lokr_w1`]: [4, 4], [`${q}.lokr_w2`]: [8, 4] }),
      /factor of a \[32,32\] layer but the product is \[32,16\]; is the LoRA for another model\?$/,
    ],
    [
      'of LoKr with one factor in two forms',
      () =>
        writeLora({
          [`${q}.lokr_w1`]: [4, 4],
          [`${q}.lokr_w1_a`]: [4, 2],
          [`${q}.lokr_w1_b`]: [2, 4],
          [`${q}.lokr_w2`]: [8, 8],
        }),
      /expected \S+lokr_w1 or a product in its place but got \S+lokr_w1_a, too$/,
    ],
    [
      'of a Tucker decomposition',
      () => writeLora({ [`${q}.lokr_t2`]: [4, 4, 3, 3] }),
      /\S+lokr_t2 is part of a Tucker decomposition, which cannot be merged$/,
    ],
    [
      'of OFT',
      () => writeLora({ [`${q}.oft_blocks`]: [4, 8, 8] }),
      /\S+oft_blocks is part of OFT, which cannot be merged$/,
    ],
    [
      'with a diff of another shape',
      () => writeLora({ [`${q}.diff`]: [32, 31] }),
      /\S+to_q\.diff of shape \[32,32\] but it is \[32,31\]; is the LoRA for another model\?$/,
    ],
    [
      'with a bias for what has none',
      () => writeLora({ 'transformer.transformer_blocks.0.attn.norm_q.diff_b': [16] }),
      /for transformer_blocks\.0\.attn\.norm_q, which is a vector, but got \S+norm_q\.diff_b$/,
    ],
    [
      'with magnitudes alone',
      () => writeLora({ [`${q}.dora_scale`]: [32, 1] }),
      /expected a change to go with \S+to_q\.dora_scale but there is none$/,
    ],
    [
      'of OFT by kohya, whose alpha comes first',
      () =>
        writeLora({
          'oft_unet_double_blocks_0_img_attn_qkv.alpha': number(1),
          'oft_unet_double_blocks_0_img_attn_qkv.oft_blocks': [4, 8, 8],
        }),
      /oft_blocks is part of OFT, which cannot be merged$/,
    ],
    [
      'with two adapters',
      () =>
        writeLora({
          [`${q}.lora_A.day.weight`]: [4, 32],
          [`${q}.lora_B.day.weight`]: [32, 4],
          'transformer.transformer_blocks.1.attn.to_q.lora_A.night.weight': [4, 32],
          'transformer.transformer_blocks.1.attn.to_q.lora_B.night.weight': [32, 4],
        }),
      /expected one adapter but the file holds 2: day, night$/,
    ],
    [
      'for a ControlNet, whose layers have the same names',
      () => writeLora({ 'controlnet.transformer_blocks.0.attn.to_q.lora_A.weight': [4, 32] }),
      /controlnet\S+ names no layer of it$/,
    ],
    [
      'with the end of a layer behind a block that is none',
      () => writeLora({ ...sound, 'transformer.some_blocks.0.proj_out.lora_A.weight': [4, 32] }),
      /some_blocks\.0\.proj_out\.lora_A\.weight names no layer of it$/,
    ],
    [
      "with a single block's layer that only double blocks have",
      () =>
        writeLora({
          ...sound,
          lora_unet_single_transformer_blocks_0_ff_net_2: [1],
          'lora_unet_single_transformer_blocks_0_ff_net_2.lora_up.weight': [32, 4],
        }),
      /lora_unet_single_transformer_blocks_0_ff_net_2\S* names no layer of it$/,
    ],
    [
      'with a whole weight among changes',
      () => writeLora({ ...sound, 'transformer.x_embedder.weight': [32, 64] }),
      /x_embedder\.weight ends in \.weight, which is no known part of a layer's change$/,
    ],
  ])('%s', async (_, write, message) => {
    const path = write()
    const opening = openLora({ name: path, path }, base, 1)
    await expect(opening).rejects.toThrow(message)
    await expect(opening).rejects.toMatchObject({ code: 'lora_invalid', status: 422 })
  })
})

test('every adapter of the fixtures opens and is finite', async () => {
  for (const scheme of ['peft', 'kohya', 'loha', 'lokr', 'comfy', 'xlabs', 'onetrainer'])
    await expect(
      openLora({ name: scheme, path: fixturePath(`lora/lora_${scheme}.safetensors`) }, base, 1),
    ).resolves.toBeDefined()
})
