/** alpha / rank from metadata, as diffusers writes it and PEFT reads it. */
import { describe, expect, test } from 'vitest'
import type { Delta } from '../../../../src/engine/lora/format/adapter.js'
import { readLora } from '../../../../src/engine/lora/format/read.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { number, writeLora } from '../loraFiles.js'
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
const q = 'transformer_blocks.0.attn.to_q'
const fc1 = 'text_model.encoder.layers.0.mlp.fc1'

const pair = (name: string, rows = 32, columns = 32, rank = 4) => ({
  [`${name}.lora_A.weight`]: [rank, columns],
  [`${name}.lora_B.weight`]: [rows, rank],
})

/** The factors of a file by the tensor that they are of. */
function factors(tensors: Parameters<typeof writeLora>[0], metadata?: unknown) {
  const file = openSafetensors(
    writeLora(tensors, metadata ? { lora_adapter_metadata: JSON.stringify(metadata) } : {}),
  )
  const { deltas } = readLora(file, { transformer: tinyDev.params, clip })
  return Object.fromEntries(
    [...deltas].map(([name, [delta]]) => [
      name,
      (delta as Extract<Delta, { factor: number }>).factor,
    ]),
  )
}

const factor = (tensors: Parameters<typeof writeLora>[0], metadata: unknown) =>
  factors(tensors, metadata)[`${q}.weight`]

describe('metadata of one layer', () => {
  const config = (entries: Record<string, unknown>) => ({
    'transformer.r': 4,
    'transformer.lora_alpha': 16,
    ...entries,
  })
  test.each<[string, Record<string, unknown>, number]>([
    ['lora_alpha / r', {}, 4],
    ['a lora_alpha of 0', { 'transformer.lora_alpha': 0 }, 0],
    ['rslora: lora_alpha / √r', { 'transformer.use_rslora': true }, 8],
    ['a pattern that ends the name', { 'transformer.alpha_pattern': { 'attn.to_q': 2 } }, 0.5],
    ['a whole name', { 'transformer.alpha_pattern': { [`^${q}`]: 2 } }, 0.5],
    ['what only looks like an end', { 'transformer.alpha_pattern': { o_q: 2 } }, 4],
    ['a rank pattern', { 'transformer.r': 8, 'transformer.rank_pattern': { to_q: 4 } }, 4],
    ['patterns that are null', { 'transformer.rank_pattern': null }, 4],
    [
      'a regular expression',
      { 'transformer.alpha_pattern': { [String.raw`transformer_blocks\.\d+\.attn\.to_q`]: 32 } },
      8,
    ],
    [
      'a regular expression for the rank',
      { 'transformer.r': 8, 'transformer.rank_pattern': { [String.raw`.*\.attn\.to_[qkv]$`]: 4 } },
      4,
    ],
    [
      'the first pattern that fits, as PEFT does',
      { 'transformer.alpha_pattern': { to_q: 2, [q]: 32 } },
      0.5,
    ],
    [
      'the first pattern that fits, whichever is longer',
      { 'transformer.alpha_pattern': { [q]: 32, to_q: 2 } },
      8,
    ],
  ])('is followed: %s', (_, entries, expected) => {
    expect(factor(pair(`transformer.${q}`), config(entries))).toBe(expected)
  })

  test.each([
    ['backwards', '(?<=x)to_q', /in "\(\?<=x\)to_q" groups that look around/],
    ['nowhere', '(to_q', /in "\(to_q" a group is not closed/],
  ])('is refused where a pattern looks %s', (_, pattern, message) => {
    const entries = { 'transformer.alpha_pattern': { [pattern]: 1 } }
    expect(() => factor(pair(`transformer.${q}`), config(entries))).toThrow(message)
  })

  test('is refused where its patterns together are more than a file needs', () => {
    const patterns = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`${i}{1000}`, 1]))
    expect(() =>
      factor(pair(`transformer.${q}`), config({ 'transformer.alpha_pattern': patterns })),
    ).toThrow(/patterns of at most 50000 steps in lora_adapter_metadata but they have \d+$/)
  })

  test('is refused where it is longer than any trainer writes', () => {
    expect(() => factor(pair(`transformer.${q}`), config({ note: 'x'.repeat(2 ** 20) }))).toThrow(
      /expected at most 1048576 characters in lora_adapter_metadata but there are \d+$/,
    )
  })

  test('does not count where the file has an alpha', () => {
    const file = { [`transformer.${q}.alpha`]: number(2), ...pair(`transformer.${q}`) }
    expect(factor(file, config({}))).toBe(0.5)
  })
})

describe('the prefix of metadata', () => {
  const bare = { r: 4, lora_alpha: 16, use_rslora: false }
  const named = (prefix: string, alpha: number) => ({
    [`${prefix}.r`]: 4,
    [`${prefix}.lora_alpha`]: alpha,
  })
  test.each([
    ['none, as save_lora_adapter writes', bare, q],
    ['none, around keys that have one', bare, `transformer.${q}`],
    ['unet', named('unet', 16), `unet.${q}`],
    ['base_model.model', named('base_model.model', 16), `base_model.model.${q}`],
    ['transformer.base_model.model', named('transformer.base_model.model', 16), `transformer.${q}`],
    ['diffusion_model', named('diffusion_model', 16), `diffusion_model.${q}`],
  ])('may be %s', (_, metadata, stem) => {
    expect(factor(pair(stem), metadata)).toBe(4)
  })

  test('keeps the networks apart; what has none holds for the others', () => {
    const file = { ...pair(`transformer.${q}`), ...pair(`text_encoder.${fc1}`, 32, 16) }
    const both = { ...named('transformer', 16), ...named('text_encoder', 8) }
    expect(factors(file, both)).toEqual({ [`${q}.weight`]: 4, [`${fc1}.weight`]: 2 })
    expect(factors(file, { ...bare, ...named('text_encoder', 8) })).toEqual({
      [`${q}.weight`]: 4,
      [`${fc1}.weight`]: 2,
    })
    const withT5 = { ...named('transformer', 16), ...named('text_encoder_2', 99) }
    expect(factor(pair(`transformer.${q}`), withT5)).toBe(4)
  })

  test.each([
    ['another network only', named('text_encoder_2', 16)],
    ['fields that are not known', { rank: 4, alpha: 16 }],
  ])('is refused where the metadata has %s', (_, metadata) => {
    expect(() => factor(pair(`transformer.${q}`), metadata)).toThrow(
      /r and lora_alpha of \S+to_q in lora_adapter_metadata but it has none for the transformer$/,
    )
  })

  test('is refused where one network has two configs', () => {
    const metadata = { ...named('transformer', 16), ...named('unet', 8) }
    expect(() => factor(pair(`transformer.${q}`), metadata)).toThrow(
      /expected one config of the transformer/,
    )
  })

  test('does not matter where there is nothing in it, or every layer has an alpha', () => {
    expect(factor(pair(`transformer.${q}`), {})).toBe(1)
    const file = { ...pair(q), [`${q}.alpha`]: number(8) }
    expect(factor(file, { rank: 4 })).toBe(2)
  })
})

test('an anchored pattern is of the top level only', () => {
  const file = {
    ...pair('transformer.proj_out', 64, 32, 8),
    ...pair('transformer.single_transformer_blocks.0.proj_out', 32, 160),
  }
  const metadata = {
    'transformer.r': 4,
    'transformer.lora_alpha': 4,
    'transformer.rank_pattern': { '^proj_out': 8 },
    'transformer.alpha_pattern': { '^proj_out': 16 },
  }
  expect(factors(file, metadata)).toEqual({
    'proj_out.weight': 2,
    'single_transformer_blocks.0.proj_out.weight': 1,
  })
})

describe('an alpha of 0 switches a layer off', () => {
  const name = `lora_unet_${q.replaceAll('.', '_')}`
  test.each<[string, Record<string, readonly number[]>]>([
    ['LoRA', { [`${name}.lora_down.weight`]: [4, 32], [`${name}.lora_up.weight`]: [32, 4] }],
    [
      'LoHa',
      {
        [`${name}.hada_w1_a`]: [32, 4],
        [`${name}.hada_w1_b`]: [4, 32],
        [`${name}.hada_w2_a`]: [32, 4],
        [`${name}.hada_w2_b`]: [4, 32],
      },
    ],
    [
      'LoKr',
      {
        [`${name}.lokr_w1`]: [4, 4],
        [`${name}.lokr_w2_a`]: [8, 2],
        [`${name}.lokr_w2_b`]: [2, 8],
      },
    ],
  ])('of %s', (_, tensors) => {
    expect(factor({ ...tensors, [`${name}.alpha`]: number(0) }, undefined)).toBe(0)
  })

  test('of DoRA, whose magnitudes are left', () => {
    const file = openSafetensors(
      writeLora({
        [`${name}.lora_down.weight`]: [4, 32],
        [`${name}.lora_up.weight`]: [32, 4],
        [`${name}.dora_scale`]: [32, 1],
        [`${name}.alpha`]: number(0),
      }),
    )
    const { deltas } = readLora(file, { transformer: tinyDev.params })
    expect(deltas.get(`${q}.weight`)).toMatchObject([{ kind: 'dora', changes: [{ factor: 0 }] }])
  })
})
