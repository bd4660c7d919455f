import { expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import { planGeneration } from '../../src/plan/generation.js'

const plan = (fields: object, drawnSeed = 4711) =>
  planGeneration(FluxInput.parse({ prompt: 'a red circle', ...fields }), {
    drawnSeed,
    noise: 'torch-cpu',
  })

test('a prompt alone is one 1024×1024 webp from dev in 28 steps', () => {
  expect(plan({})).toEqual({
    variant: 'dev',
    prompt: 'a red circle',
    size: { width: 1024, height: 1024 },
    steps: 28,
    guidance: 3,
    seed: 4711,
    count: 1,
    noise: 'torch-cpu',
    output: { format: 'webp', quality: 80 },
    notes: ['No safety checker is installed: the output is not checked'],
  })
})

test('every wish of a text-to-picture prediction is in its plan', () => {
  const wish = {
    aspect_ratio: '21:9',
    megapixels: '0.25',
    num_inference_steps: 7,
    guidance_scale: 2.5,
    seed: 99,
    num_outputs: 3,
    output_format: 'jpg',
    output_quality: 0,
    disable_safety_checker: true,
  }
  expect(plan(wish)).toMatchObject({
    size: { width: 768, height: 320 },
    steps: 7,
    guidance: 2.5,
    seed: 99,
    count: 3,
    output: { format: 'jpg', quality: 0 },
    notes: [],
  })
})

test.each([
  [undefined, 4711],
  [-1, 4711],
  [-4711, 4711],
  [0, 0],
  [7, 7],
  [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
])('seed %s becomes %i where 4711 was drawn', (seed, chosen) => {
  expect(plan({ seed }).seed).toBe(chosen)
})

test('schnell runs the steps it is told, 28 by default, and has no guidance', () => {
  expect(plan({ model: 'schnell', guidance_scale: 9 })).toMatchObject({
    variant: 'schnell',
    steps: 28,
    guidance: 0,
  })
  expect(plan({ model: 'schnell', num_inference_steps: 4 }).steps).toBe(4)
})

test.each([
  ['image', 'https://example.org/a.png'],
  ['mask', 'data:image/png;base64,AA=='],
  ['extra_lora', 'fofr/flux-pixar-cars'],
  ['replicate_weights', 'fofr/shxdo-v2'],
  ['go_fast', true],
])('%s is refused as not supported yet, by name', (field, value) => {
  expect(() => plan({ [field]: value })).toThrow(
    expect.objectContaining({
      code: 'not_supported',
      field,
      message: `${field} is not supported yet`,
    }),
  )
})

test('fields that change nothing alone are accepted: LoRA scales, strength, empty LoRA references', () => {
  const harmless = {
    lora_scale: 2,
    extra_lora_scale: -1,
    prompt_strength: 0.1,
    extra_lora: '',
    replicate_weights: '',
  }
  expect(plan(harmless)).toEqual(plan({}))
})

test('a custom size overrides go_fast and says so', () => {
  const custom = { aspect_ratio: 'custom', width: 300, height: 256, disable_safety_checker: true }
  expect(plan({ ...custom, go_fast: true })).toMatchObject({
    size: { width: 304, height: 256 },
    notes: ['Custom aspect ratios not supported with fast fp8 inference; will run in bf16'],
  })
  expect(plan(custom).notes).toEqual([])
})
