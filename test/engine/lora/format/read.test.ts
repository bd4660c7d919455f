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

  test.each<[string, string, readonly [string, string], string[], [number, number]]>([
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
  ])('reads an alpha of 6 in %s [%s]', (dtype, shape, bytes) => {
    const alpha = { dtype, shape, bytes: Uint8Array.from(bytes) }
    expect(factor(writeLora({ [`${name}.alpha`]: alpha, ...pair }))).toBe(1.5)
  })

  test('is 1 without an alpha and with an alpha of 0', () => {
    expect(factor(writeLora(pair))).toBe(1)
    expect(factor(writeLora({ [`${name}.alpha`]: number(0), ...pair }))).toBe(1)
  })

  const config = (entries: Record<string, unknown>) => ({
    lora_adapter_metadata: JSON.stringify({
      'transformer.r': 4,
      'transformer.lora_alpha': 16,
      ...entries,
    }),
  })
  test.each<[string, Record<string, unknown>, number]>([
    ['lora_alpha / r', {}, 4],
    ['rslora: lora_alpha / √r', { 'transformer.use_rslora': true }, 8],
    ['a pattern that ends the name', { 'transformer.alpha_pattern': { 'attn.to_q': 2 } }, 0.5],
    [
      'a pattern with the whole name',
      { 'transformer.alpha_pattern': { '^transformer_blocks.0.attn.to_q': 2 } },
      0.5,
    ],
    ['a pattern that only looks like an end', { 'transformer.alpha_pattern': { o_q: 2 } }, 4],
    ['a rank pattern', { 'transformer.r': 8, 'transformer.rank_pattern': { to_q: 4 } }, 4],
    ['patterns that are null', { 'transformer.rank_pattern': null }, 4],
  ])('follows the metadata: %s', (_, entries, expected) => {
    expect(factor(writeLora(pair, config(entries)))).toBe(expected)
  })

  test('of the file counts where the metadata says something else', () => {
    expect(factor(writeLora({ [`${name}.alpha`]: number(2), ...pair }, config({})))).toBe(0.5)
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
    'lora_unet_double_blocks_0_img_mlp_0.lora_down.weight',
  ])('is named: %s', (key) => {
    expect(read(writeLora({ ...q, [key]: [2, 7] })).ignored).toEqual([key])
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
  const fourBits = (name: string) => {
    const path = join(temporaryFolder(), 'lora.safetensors')
    const header = JSON.stringify({ [name]: { dtype: 'F4', shape: [2], data_offsets: [0, 1] } })
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
      /lora\.pt: expected a safetensors file but this is a Python pickle$/,
    ],
    [
      'that is a bare pickle',
      () => pickle([0x80, 2]),
      /lora\.pt: expected a safetensors file but this is a Python pickle$/,
    ],
    [
      'with nothing in it',
      () => writeLora({}),
      /expected changes to at least one layer of Flux\.1 but the file holds no tensors$/,
    ],
    [
      'with nothing but T5',
      () => writeLora({ 'lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha': number(1) }),
      /but the file holds only 1 tensors that are not merged, the first is lora_te3_encoder_block_0_layer_0_SelfAttention_q\.alpha$/,
    ],
    [
      'with an unknown layer',
      () =>
        writeLora({
          ...sound,
          'transformer.transformer_blocks.0.attn.to_z.lora_A.weight': [4, 32],
        }),
      /expected a LoRA for Flux\.1 but transformer\.transformer_blocks\.0\.attn\.to_z\.lora_A\.weight names no layer of it$/,
    ],
    [
      'with an unknown role',
      () => writeLora({ [`${q}.lora_C.weight`]: [4, 32], ...sound }),
      /but transformer\.transformer_blocks\.0\.attn\.to_q\.lora_C\.weight ends in \.lora_C\.weight, which is no known part of a layer's change$/,
    ],
    [
      'with a tensor of no known dtype',
      () => fourBits(q),
      /tensor \S+to_q: dtype: Invalid option: expected one of [^\n]+$/,
    ],
    [
      'for a whole checkpoint',
      () => fixturePath('tiny-dev-bfl/flux1-dev.safetensors'),
      /flux1-dev\.safetensors: expected a LoRA but none of its tensors is a LoRA's, such as double_blocks\.0\.\S+$/,
    ],
    [
      'for Stable Diffusion XL',
      () =>
        writeLora({
          'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight': [4, 640],
        }),
      /but lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q\.lora_down\.weight names no layer of it, which is of a LoRA for Stable Diffusion XL$/,
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
      /but transformer\.transformer_blocks\.2\.attn\.to_q\.lora_A\.weight is of a block that this model does not have$/,
    ],
    [
      'with a single block too many',
      () => writeLora({ 'lora_unet_single_blocks_37_linear1.alpha': number(1) }),
      /but lora_unet_single_blocks_37_linear1\.alpha is of a block that this model does not have$/,
    ],
    [
      'of a wider model',
      () => writeLora({ [A]: [4, 64], [B]: [64, 4] }),
      /expected \S+to_q\.lora_A\.weight of shape \[r,32\] but it is \[4,64\]; is the LoRA for another model\?$/,
    ],
    [
      'with other outputs',
      () => writeLora({ [A]: [4, 32], [B]: [96, 4] }),
      /expected \S+to_q\.lora_B\.weight of shape \[32,r\] but it is \[96,4\]; is the LoRA for another model\?$/,
    ],
    [
      'whose ranks differ',
      () => writeLora({ [A]: [4, 32], [B]: [32, 8] }),
      /expected \S+to_q\.lora_B\.weight of rank 4, as \S+to_q\.lora_A\.weight has it, but it is \[32,8\]$/,
    ],
    [
      'of rank 0',
      () => writeLora({ [A]: [0, 32], [B]: [32, 0] }),
      /expected a matrix in \S+to_q\.lora_A\.weight but it is \[0,32\]$/,
    ],
    [
      'of a 3×3 convolution',
      () => writeLora({ [A]: [4, 32, 3, 3], [B]: [32, 4] }),
      /expected a matrix in \S+to_q\.lora_A\.weight but it is \[4,32,3,3\]$/,
    ],
    [
      'without its up',
      () => writeLora({ [A]: [4, 32] }),
      /expected transformer\.transformer_blocks\.0\.attn\.to_q\.lora_B\.weight to go with \S+lora_A\.weight but it is missing$/,
    ],
    [
      'without its down',
      () => writeLora({ [B]: [32, 4] }),
      /expected \S+to_q\.lora_A\.weight to go with \S+lora_B\.weight but it is missing$/,
    ],
    [
      'with an alpha alone',
      () => writeLora({ [`${q}.alpha`]: number(4) }),
      /expected a change to go with \S+to_q\.alpha but there is none$/,
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
      'with whole numbers',
      () =>
        writeLora({ ...sound, [A]: { dtype: 'I8', shape: [4, 32], bytes: new Uint8Array(128) } }),
      /expected \S+to_q\.lora_A\.weight in F32, F16, BF16 but it is I8$/,
    ],
    [
      'with one layer twice',
      () => writeLora({ ...sound, 'transformer_blocks.0.attn.to_q.lora_A.weight': [4, 32] }),
      /expected one change per layer but got transformer_blocks\.0\.attn\.to_q\.lora_A\.weight and \S+to_q\.lora_A\.weight$/,
    ],
    [
      'with one tensor twice',
      () => writeLora({ ...sound, [`${q}.lora_down.weight`]: [4, 32] }),
      /expected one change per layer but got \S+to_q\.lora_down\.weight and \S+to_q\.lora_A\.weight$/,
    ],
    [
      'with a fused layer and one of its parts',
      () => writeLora({ ...sound, 'transformer.transformer_blocks.0.attn.to_qkv.diff': [96, 32] }),
      /expected one change per layer but got \S+to_qkv and another layer's change of transformer_blocks\.0\.attn\.to_q\.weight$/,
    ],
    [
      'with magnitudes beside nothing but a bias',
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
      /but double_blocks\.0\.img_attn\.norm\.query_norm\.scale replaces one: this is a Flux\.1 control LoRA \(Canny or Depth\), which is not supported$/,
    ],
    [
      'that is a control LoRA by its input',
      () => writeLora({ 'img_in.lora_A.weight': [4, 128], 'img_in.lora_B.weight': [32, 4] }),
      /expected a LoRA for 64 input channels but img_in\.lora_A\.weight takes 128: it makes the model a Flux\.1 Canny or Depth control model, which is not supported$/,
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
      /expected \S+to_q\.hada_w2_a to go with \S+hada_w1_b but it is missing$/,
    ],
    [
      'of LoKr whose product has another shape',
      () => writeLora({ [`${q}.lokr_w1`]: [4, 4], [`${q}.lokr_w2`]: [8, 4] }),
      /expected \S+to_q\.lokr_w1 to be a factor of a \[32,32\] layer but the product is \[32,16\]; is the LoRA for another model\?$/,
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
      /expected \S+to_q\.diff of shape \[32,32\] but it is \[32,31\]; is the LoRA for another model\?$/,
    ],
    [
      'with a bias for what has none',
      () => writeLora({ 'transformer.transformer_blocks.0.attn.norm_q.diff_b': [16] }),
      /expected nothing but a \.diff for transformer_blocks\.0\.attn\.norm_q, which is a vector, but got \S+norm_q\.diff_b$/,
    ],
    [
      'with magnitudes alone',
      () => writeLora({ [`${q}.dora_scale`]: [32, 1] }),
      /expected a change to go with \S+to_q\.dora_scale but there is none$/,
    ],
    [
      'with column magnitudes for a fused layer',
      () =>
        writeLora({
          'lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight': [4, 32],
          'lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight': [96, 4],
          'lora_unet_double_blocks_0_img_attn_qkv.dora_scale': [1, 32],
        }),
      /expected one magnitude per row in \S+dora_scale but it is \[1,32\]: per column it cannot be merged into 3 layers$/,
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
