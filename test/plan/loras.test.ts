/** The published rules of `lora_scale`, `extra_lora` and `go_fast`; what the reference does else is noted. */
import { describe, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import type { LoraFiles } from '../../src/plan/loras.js'
import { planGeneration } from '../../src/plan/planGeneration.js'

const main = { path: '/loras/main.safetensors', digest: 'sha256:1' }
const extra = { path: '/loras/extra.safetensors' }
const custom = { aspect_ratio: 'custom', width: 512, height: 512 }

const plan = (fields: object, loras: LoraFiles = {}, goFastLoraMultiplier = 1.5) =>
  planGeneration(FluxInput.parse({ prompt: '', disable_safety_checker: true, ...fields }), {
    drawnSeed: 1,
    noise: 'torch-cpu',
    safetyChecker: false,
    goFastLoraMultiplier,
    loras,
  })

test.each<[string, object, LoraFiles, readonly (readonly [object, number])[]]>([
  ['no LoRA', { lora_scale: 2 }, {}, []],
  ['the main one at scale 1', {}, { main }, [[main, 1]]],
  // The reference's bf16 path would apply 0.5 as 0.25, and −1 as 1.
  ['its own scale, linear', { lora_scale: 0.5 }, { main }, [[main, 0.5]]],
  ['a negative scale', { lora_scale: -1 }, { main }, [[main, -1]]],
  [
    'main before extra, each at its scale',
    { lora_scale: 0.8, extra_lora_scale: -0.5 },
    { extra, main },
    [
      [main, 0.8],
      [extra, -0.5],
    ],
  ],
  ['an extra one alone, at its scale', { extra_lora_scale: 0.4 }, { extra }, [[extra, 0.4]]],
  // The reference multiplies the main scale only, against both descriptions.
  [
    'both times 1.5 in fp8',
    { go_fast: true, lora_scale: 0.8, extra_lora_scale: 2 },
    { main, extra },
    [
      [main, 0.8 * 1.5],
      [extra, 3],
    ],
  ],
  ['an extra one alone times 1.5 in fp8', { go_fast: true }, { extra }, [[extra, 1.5]]],
  [
    'no multiplier where a custom size means bf16',
    { go_fast: true, ...custom },
    { main },
    [[main, 1]],
  ],
  // The fine-tune's predictor merges both, BFL's drops the second.
  [
    'the same file twice',
    { extra_lora_scale: 0.5 },
    { main, extra: main },
    [
      [main, 1],
      [main, 0.5],
    ],
  ],
])('%s', (_, fields, files, expected) => {
  expect(plan(fields, files).loras).toEqual(expected.map(([file, scale]) => ({ ...file, scale })))
})

test('any number of files with scales of their own come after those', () => {
  const more = [0.1, 0.2, 0.3].map((scale) => ({ path: `/loras/${scale}`, scale }))
  expect(plan({}, { main, more }).loras).toEqual([{ ...main, scale: 1 }, ...more])
  expect(plan({ go_fast: true }, { more }, 2).loras.map(({ scale }) => scale)).toEqual([
    0.2, 0.4, 0.6,
  ])
})

test('a multiplier of 1 leaves the scales of fp8 as they are', () => {
  expect(plan({ go_fast: true, lora_scale: 0.7 }, { main }, 1).loras).toEqual([
    { ...main, scale: 0.7 },
  ])
})

describe('an extra LoRA without a main one', () => {
  const note = (name: string, scale: string) =>
    `extra_lora_weights ${name} were found, and lora_weights were None! This shouldn't happen. ` +
    `Setting lora_weights to ${name} and lora_scale to extra_lora_scale: ${scale} and running.`

  test("is announced in the reference's words, with the scale before fp8 multiplies it", () => {
    const wish = { extra_lora: 'fofr/shxdo-v2', go_fast: true }
    expect(plan(wish, { extra }).notes).toEqual([note('fofr/shxdo-v2', '1.0')])
    const scaled = { extra_lora: 'fofr/shxdo-v2', extra_lora_scale: 0.75 }
    expect(plan(scaled, { extra }).notes).toEqual([note('fofr/shxdo-v2', '0.75')])
    expect(plan(wish, { main, extra }).notes).toEqual([])
  })

  test.each([
    ['https://example.org/a.safetensors?token=s3cret', 'https://example.org/a.safetensors?…'],
    ['https://me:s3cret@example.org/a.safetensors', 'https://example.org/a.safetensors'],
    ['data:application/x-tar;base64,AAAA', 'data:…'],
  ])('never shows what a log must not: %s', (reference, name) => {
    expect(plan({ extra_lora: reference }, { extra }).notes).toEqual([note(name, '1.0')])
  })
})
