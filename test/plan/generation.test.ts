import { describe, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import {
  draftPlan,
  type FoundAssets,
  finishPlan,
  type PlanSettings,
} from '../../src/plan/planGeneration.js'

const settings: PlanSettings = {
  noise: 'torch-cpu',
  goFastLoraMultiplier: 1.5,
  safetyChecker: false,
}

function plan(
  fields: object,
  { safetyChecker, ...found }: Partial<FoundAssets & PlanSettings> = {},
) {
  const input = FluxInput.parse({ prompt: 'a red circle', seed: 4711, ...fields })
  const own = { ...settings, ...(safetyChecker !== undefined && { safetyChecker }) }
  const draft = draftPlan(input, [], own)
  if (draft.kind === 'invalid') throw draft.error
  return finishPlan(draft, { loras: [], ...found })
}

test('a prompt alone is one 1024×1024 webp from dev in 28 steps', () => {
  expect(plan({})).toEqual({
    variant: 'dev',
    precision: 'bf16',
    prompt: 'a red circle',
    size: { width: 1024, height: 1024 },
    start: { kind: 'noise' },
    loras: [],
    steps: 28,
    firstStep: 0,
    guidance: 3,
    seed: 4711,
    count: 1,
    noise: 'torch-cpu',
    output: { format: 'webp', quality: 80 },
    checkSafety: false,
    notes: ['No safety checker is installed: the output is not checked'],
  })
})

test('every field of a text-to-image input is in its plan', () => {
  const input = {
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
  expect(plan(input)).toMatchObject({
    size: { width: 768, height: 320 },
    steps: 7,
    guidance: 2.5,
    seed: 99,
    count: 3,
    output: { format: 'jpg', quality: 0 },
    checkSafety: false,
    notes: [],
  })
})

test.each([
  ['installed', true, false, true, []],
  ['installed and disabled by the input', true, true, false, []],
  ['missing', false, false, false, ['No safety checker is installed: the output is not checked']],
  ['missing and disabled by the input', false, true, false, []],
])(
  'a safety checker that is %s',
  (_, safetyChecker, disable_safety_checker, checkSafety, notes) => {
    expect(plan({ disable_safety_checker }, { safetyChecker })).toMatchObject({
      checkSafety,
      notes,
    })
  },
)

test('schnell runs the steps it is told, 28 by default, and has no guidance', () => {
  expect(plan({ model: 'schnell', guidance_scale: 9 })).toMatchObject({
    variant: 'schnell',
    steps: 28,
    guidance: 0,
  })
  expect(plan({ model: 'schnell', num_inference_steps: 4 }).steps).toBe(4)
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
    precision: 'bf16',
    size: { width: 304, height: 256 },
    notes: ['Custom aspect ratios not supported with fast fp8 inference; will run in bf16'],
  })
  expect(plan(custom).notes).toEqual([])
})

describe('with an image', () => {
  const image = { bytes: new Uint8Array([1]), size: { width: 300, height: 200 } }
  const mask = new Uint8Array([2])
  const uri = 'https://example.org/a.png'
  const quiet = { disable_safety_checker: true }

  test('the image decides the size and the strength the first step', () => {
    expect(plan({ image: uri, aspect_ratio: '16:9', megapixels: '0.25' }, { image })).toMatchObject(
      {
        size: { width: 304, height: 208 },
        start: { kind: 'image', image },
        steps: 28,
        firstStep: 5,
      },
    )
  })

  test('a mask makes it inpainting', () => {
    const { start } = plan({ image: uri, mask: uri }, { image, mask })
    expect(start).toEqual({ kind: 'inpaint', image, mask })
  })

  test('a mask without an image is ignored, and says so', () => {
    const { start, notes } = plan({ mask: uri, ...quiet })
    expect(start).toEqual({ kind: 'noise' })
    expect(notes).toEqual(['There is a mask but no image: the mask is ignored'])
  })

  // diffusers' int(max(N - min(N*s, N), 0)) in Python 3.11; BFL's rule differs where marked.
  test.each([
    [4, 0.75, 1],
    [4, 0.8, 0],
    [10, 0.8, 2], // BFL: 1
    [10, 0.9, 1], // BFL: 0
    [20, 0.8, 4],
    [28, 0.01, 27],
    [28, 0.5, 14],
    [28, 0.8, 5],
    [28, 0.9, 2],
    [28, 0.95, 1],
    [28, 1, 0],
    [50, 0.34, 33],
    [50, 0.68, 16],
    [50, 0.78, 11],
    [50, 0.8, 10],
    [50, 0.9, 5],
    [50, 0.92, 4],
    [1, 0.5, 0],
  ])('%i steps at strength %d begin at step %i', (steps, strength, first) => {
    const input = { image: uri, num_inference_steps: steps, prompt_strength: strength }
    expect(plan(input, { image }).firstStep).toBe(first)
  })

  test('a strength of 0 leaves no step and fails as the reference does', () => {
    const message =
      'After adjusting the num_inference_steps by strength parameter: 0.0, the number of ' +
      'pipelinesteps is 0 which is < 1 and not appropriate for this pipeline.'
    expect(() => plan({ image: uri, prompt_strength: 0 }, { image })).toThrow(message)
    const input = FluxInput.parse({ prompt: '', image: uri, prompt_strength: 0 })
    const draft = draftPlan(input, [], settings)
    expect(draft).toMatchObject({ kind: 'invalid', error: { code: 'invalid_input', message } })
  })

  test('it keeps go_fast, but with a custom size', () => {
    const fast = { go_fast: true, image: uri, ...quiet }
    expect(plan(fast, { image })).toMatchObject({ precision: 'fp8', notes: [] })
    expect(plan({ ...fast, mask: uri }, { image, mask })).toMatchObject({
      precision: 'fp8',
      start: { kind: 'inpaint' },
      notes: [],
    })
    const custom = { ...fast, aspect_ratio: 'custom', width: 256, height: 256 }
    expect(plan(custom, { image })).toMatchObject({
      precision: 'bf16',
      notes: ['Custom aspect ratios not supported with fast fp8 inference; will run in bf16'],
    })
  })

  test('a custom size must be complete all the same', () => {
    expect(() => plan({ image: uri, aspect_ratio: 'custom' }, { image })).toThrow(
      "width and height must be defined if aspect ratio is 'custom'",
    )
  })
})
