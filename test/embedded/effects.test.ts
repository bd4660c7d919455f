/** What LoRAs, guidance and fp8 do on the embedded model: effects that random weights cannot show. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compareImages } from '../../src/cli/similarity.js'
import { readConfig } from '../../src/config/config.js'
import { loadModels, type Models } from '../../src/engine/models/models.js'
import type { GenerationPlan, Precision } from '../../src/plan/plan.js'
import { flat } from '../engine/images/images.js'
import { drawPng, pixelsOf, sketch } from './studio.js'
import { styleOf, styles } from './styles.js'

let models: Models
let plain: Uint8Array
beforeAll(async () => {
  // One thread: several would wait for each other on a machine that runs other tests too.
  models = await loadModels('dev', readConfig({}).checkpoints.dev, { threads: 1 })
  plain = await draw({})
})
afterAll(() => models.release())

/** Black on the left, white on the right. */
const halves = () =>
  flat(2, 1, 'black').composite([
    {
      input: { create: { width: 1, height: 1, channels: 3, background: 'white' } },
      left: 1,
      top: 0,
    },
  ])

const prompts = [
  'a red circle on a green background',
  'a blue ring on the left on an orange background',
]
const draw = (changes: Partial<GenerationPlan>) => drawPng(models, { ...sketch, ...changes })
const drawPixels = async (changes: Partial<GenerationPlan>) => pixelsOf(await draw(changes))

/** The prompts' pictures, as pixels. */
async function drawAll(trigger: string, changes: Partial<GenerationPlan>) {
  const pictures: Uint8Array[] = []
  for (const prompt of prompts)
    pictures.push(await drawPixels({ prompt: `${trigger} ${prompt}`, ...changes }))
  return pictures
}

/** A measure's mean over pictures. */
const average = (measure: (rgb: Uint8Array) => number, pictures: readonly Uint8Array[]) =>
  pictures.reduce((sum, rgb) => sum + measure(rgb), 0) / pictures.length

describe.each(styles)('$name', ({ path, trigger, sign, measure }) => {
  test('moves its measure one way at scale 1 and the other way at −1', async () => {
    const at = async (scale: number) =>
      sign * average(measure, await drawAll(trigger, { loras: [{ name: 'lora', path, scale }] }))
    const none = await at(0)
    const plus = (await at(1)) - none
    const minus = (await at(-1)) - none
    // What is seen: 0.10 (WEBP) to 0.86 (SPRITE), and −0.07 (NP) to −0.59 (SPRITE).
    expect(plus).toBeGreaterThan(0.05)
    expect(minus).toBeLessThan(-0.03)
  })

  test('changes no byte at scale 0', async () => {
    expect(await draw({ loras: [{ name: 'lora', path, scale: 0 }] })).toEqual(plain)
  })
})

test('two LoRAs add: each measure moves, whatever the other does', async () => {
  const both = [styleOf('fofr/shxdo'), styleOf('fofr/0_1-webp')]
  const loras = both.map(({ path }) => ({ name: 'lora', path, scale: 1 }))
  const none = await drawAll('', {})
  const together = await drawAll('', { loras })
  for (const [i, { measure, sign }] of both.entries()) {
    const alone = await drawAll('', { loras: [loras[i]!] })
    const change = (pictures: readonly Uint8Array[]) =>
      sign * (average(measure, pictures) - average(measure, none))
    // Brightness falls by .23 alone and together, coverage rises by .10 and .11.
    expect(change(alone)).toBeGreaterThan(0.05)
    expect(change(together)).toBeGreaterThan(0.5 * change(alone))
  }
})

test('a LoRA has its effect in fp8 too', async () => {
  const { path, trigger, measure } = styleOf('fofr/shxdo')
  const brightness = async (scale: number, precision: Precision) =>
    average(measure, await drawAll(trigger, { loras: [{ name: 'lora', path, scale }], precision }))
  const [none, fp8, bf16] = [
    await brightness(0, 'fp8'),
    await brightness(1, 'fp8'),
    await brightness(1, 'bf16'),
  ]
  // .48 without the LoRA, .212 with it in fp8 and .215 in bf16.
  expect(Math.abs(fp8 - bf16)).toBeLessThan(0.1 * (none - bf16))
})

test('guidance is contrast', async () => {
  const contrasts: number[] = []
  for (const guidance of [0, 1, 2, 3]) {
    const rgb = await drawPixels({ prompt: 'a red circle on a white background', guidance })
    const greens = rgb.filter((_, i) => i % 3 === 1).sort()
    contrasts.push(greens.at(-100)! - greens[100]!)
  }
  // 64, 129, 185 and 235 of 255 between the darkest and the lightest.
  for (let i = 1; i < contrasts.length; i++)
    expect(contrasts[i]! - contrasts[i - 1]!).toBeGreaterThan(15)
})

describe('fp8', () => {
  test('draws what bf16 draws, at 25 dB and more, and not the same bytes', async () => {
    for (const [i, prompt] of prompts.entries()) {
      const plan = { prompt, seed: i }
      const bf16 = await draw(plan)
      const fp8 = await draw({ ...plan, precision: 'fp8' })
      const { psnr: decibels, ssim } = await compareImages(bf16, fp8)
      // 29.1 to 32.5 dB and .978 to .982 are what is seen.
      expect(decibels).toBeGreaterThan(25)
      expect(decibels).toBeLessThan(60)
      expect(ssim).toBeGreaterThan(0.9)
    }
  })

  test('starts from an image and paints under a mask as bf16 does', async () => {
    const bytes = await draw({ prompt: 'a red square on a blue background' })
    const image = { bytes, size: sketch.size }
    const mask = await halves().png().toBuffer()
    for (const start of [
      { kind: 'image', image },
      { kind: 'inpaint', image, mask },
    ] as const) {
      const plan = { start, firstStep: 2, prompt: 'a yellow ring on a purple background' }
      const bf16 = await draw(plan)
      const fp8 = await draw({ ...plan, precision: 'fp8' })
      const { psnr } = await compareImages(bf16, fp8)
      // 30.4 and 33.1 dB are what is seen.
      expect(psnr).toBeGreaterThan(25)
      expect(psnr).toBeLessThan(60)
    }
  })

  test('is repeatable', async () => {
    expect(await draw({ precision: 'fp8' })).toEqual(await draw({ precision: 'fp8' }))
  })
})
