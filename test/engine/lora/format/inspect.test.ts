/** Inspecting lists everything that is right and wrong with a LoRA file, not the first thing. */
import { describe, expect, test } from 'vitest'
import { openTransformer } from '../../../../src/engine/checkpoint/checkpoint.js'
import {
  inspectLora,
  isUsable,
  type LoraReport,
  publishedBase,
} from '../../../../src/engine/lora/format/inspect.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { fixturePath } from '../../../goldens.js'
import { number, writeLora } from '../loraFiles.js'

/** Reports on a file with these tensors, as seen from Flux.1 as published. */
const inspect = (
  tensors: Parameters<typeof writeLora>[0],
  metadata?: Readonly<Record<string, string>>,
): LoraReport => inspectLora(openSafetensors(writeLora(tensors, metadata)), publishedBase)

const proj = 'transformer.transformer_blocks.3.attn.to_out.0'
const sound = { [`${proj}.lora_A.weight`]: [2, 3072], [`${proj}.lora_B.weight`]: [3072, 2] }

describe('a file that fits', () => {
  test('is reported by format, module, rank and scale', () => {
    const report = inspect(
      {
        'lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight': [4, 3072],
        'lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight': [9216, 4],
        'lora_unet_double_blocks_0_img_attn_qkv.alpha': number(2),
        'lora_unet_single_blocks_37_linear2.diff_b': [3072],
      },
      { ss_base_model_version: 'flux1' },
    )
    expect(isUsable(report)).toBe(true)
    expect(report).toEqual({
      schemes: ['kohya'],
      modules: [
        {
          name: 'lora_unet_double_blocks_0_img_attn_qkv',
          scheme: 'kohya',
          kind: 'lowRank',
          rank: 4,
          alpha: 2,
          factor: 0.5,
          changes: ['to_q', 'to_k', 'to_v'].map((to) => `transformer_blocks.0.attn.${to}.weight`),
        },
        {
          name: 'lora_unet_single_blocks_37_linear2',
          scheme: 'kohya',
          kind: 'full',
          rank: undefined,
          alpha: undefined,
          factor: 1,
          changes: ['single_transformer_blocks.37.proj_out.bias'],
        },
      ],
      matched: expect.arrayContaining(['lora_unet_double_blocks_0_img_attn_qkv.alpha']),
      ignored: [],
      unmatched: [],
      faults: [],
      metadata: { ss_base_model_version: 'flux1' },
    })
    expect(report.matched).toHaveLength(4)
  })

  test.each([
    ['peft', 'diffusers', 'lowRank'],
    ['kohya', 'kohya', 'lowRank'],
    ['comfy', 'comfy', 'lowRank'],
    ['xlabs', 'xlabs', 'lowRank'],
    ['onetrainer', 'onetrainer', 'lowRank'],
    ['lokr', 'lycoris', 'lokr'],
    ['loha', 'kohya', 'loha'],
  ])('is recognised as %s by scheme %s: every module has a rank', (name, scheme, kind) => {
    const file = openSafetensors(fixturePath(`lora/lora_${name}.safetensors`))
    const report = inspectLora(file, {
      transformer: openTransformer(fixturePath('tiny-dev/transformer')).params,
    })
    expect(report).toMatchObject({ unmatched: [], faults: [] })
    expect(report.schemes).toContain(scheme)
    expect(report.modules.some((module) => module.kind === kind)).toBe(true)
    expect(
      report.modules.filter((module) => module.kind !== 'full').map(({ rank }) => rank),
    ).toEqual(expect.arrayContaining([expect.any(Number)]))
    expect(report.matched.length + report.ignored.length).toBe(file.tensors.size)
  })
})

describe('a file that does not fit', () => {
  test('has all its unknown keys listed, each with what it is of', () => {
    const report = inspect({
      ...sound,
      'transformer.transformer_blocks.19.attn.to_q.lora_A.weight': [2, 3072],
      'transformer.transformer_blocks.0.attn.nothing.lora_A.weight': [2, 3072],
      'double_blocks.0.img_attn_qkv.lora_A.weight': [2, 3072],
    })
    expect(report.modules).toHaveLength(1)
    expect(report.unmatched).toEqual([
      {
        name: 'transformer.transformer_blocks.19.attn.to_q.lora_A.weight',
        reason: expect.stringMatching(/is of a block that this model does not have$/),
      },
      {
        name: 'transformer.transformer_blocks.0.attn.nothing.lora_A.weight',
        reason: expect.stringMatching(/names no layer of it$/),
      },
      {
        name: 'double_blocks.0.img_attn_qkv.lora_A.weight',
        reason: expect.stringMatching(/, which is of a LoRA for HunyuanVideo$/),
      },
    ])
    expect(isUsable(report)).toBe(false)
  })

  test('has all its wrong shapes and missing halves listed', () => {
    const report = inspect({
      ...sound,
      'transformer.x_embedder.lora_A.weight': [2, 128],
      'transformer.x_embedder.lora_B.weight': [3072, 2],
      'transformer.proj_out.lora_A.weight': [2, 1024],
      'transformer.proj_out.lora_B.weight': [64, 2],
      'transformer.context_embedder.lora_A.weight': [2, 4096],
    })
    expect(report.modules.map(({ name }) => name)).toEqual([proj])
    expect(report.faults).toEqual([
      { name: 'transformer.x_embedder', reason: expect.stringMatching(/takes 128/) },
      { name: 'transformer.proj_out', reason: expect.stringMatching(/\[r,3072\].*\[2,1024\]/) },
      { name: 'transformer.context_embedder', reason: expect.stringMatching(/is missing$/) },
    ])
    expect(report.unmatched).toEqual([])
    expect(isUsable(report)).toBe(false)
  })

  test('is refused for one layer that two names change, or two names of one tensor', () => {
    const twice = inspect({
      ...sound,
      'double_blocks.3.img_attn.proj.lora_A.weight': [2, 3072],
      'double_blocks.3.img_attn.proj.lora_B.weight': [3072, 2],
    })
    expect(twice.faults).toEqual([
      {
        name: 'double_blocks.3.img_attn.proj',
        reason:
          `transformer_blocks.3.attn.to_out.0.weight is changed by ${proj} and, differently, by ` +
          'double_blocks.3.img_attn.proj',
      },
    ])
    const doubled = inspect({ ...sound, [`${proj}.lora_down.weight`]: [2, 3072] })
    expect(doubled.faults).toEqual([
      {
        name: `${proj}.lora_down.weight`,
        reason:
          `expected one change per layer but got ${proj}.lora_down.weight and ` +
          `${proj}.lora_A.weight`,
      },
    ])
  })

  test('is reported for metadata that cannot be read, and its keys are still listed', () => {
    const report = inspect(sound, { lora_adapter_metadata: '{' })
    expect(report.faults).toEqual([
      {
        name: 'lora_adapter_metadata',
        reason: 'expected JSON in lora_adapter_metadata',
      },
    ])
    expect(report.modules).toMatchObject([{ rank: 2, factor: 1 }])
  })

  test.each([
    ['holds nothing of a LoRA', { 'model.weight': [4, 4] }],
    ['holds only ignored parts', { 'lora_te2_encoder_block_0.lora_down.weight': [2, 4096] }],
  ])('is not usable when it %s', (_, tensors) => {
    const report = inspect(tensors)
    expect(isUsable(report)).toBe(false)
    expect(report.modules).toEqual([])
    expect(report.unmatched.length + report.ignored.length).toBe(1)
  })
})
