/** What strength and mask do on the embedded model: effects that random weights cannot show. */
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { loadModels, type Models } from '../../src/engine/models/models.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import type { GenerationPlan, InputImage, Start } from '../../src/plan/plan.js'
import { flat } from '../engine/images/images.js'

const side = 256
const size = { width: side, height: side }
const { checkpoints, threads } = readConfig({})

let models: Models
beforeAll(async () => {
  models = await loadModels('dev', checkpoints.dev, { threads })
})
afterAll(() => models.release())

const plan: GenerationPlan = {
  variant: 'dev',
  precision: 'bf16',
  prompt: 'a yellow circle on a green background',
  size,
  start: { kind: 'noise' },
  loras: [],
  steps: 20,
  firstStep: 0,
  guidance: 3,
  seed: 1,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'png', quality: 80 },
  checkSafety: false,
  notes: [],
}

/** A red square on blue. */
async function image(): Promise<InputImage> {
  const square = await flat(side / 2, side / 2, 'red')
    .png()
    .toBuffer()
  const bytes = await flat(side, side, 'blue')
    .composite([{ input: square }])
    .png()
    .toBuffer()
  return { bytes, size }
}

/** Black but for the right half. */
async function rightHalf() {
  const input = await flat(side / 2, side, 'white')
    .png()
    .toBuffer()
  return flat(side, side, 'black')
    .composite([{ input, left: side / 2, top: 0 }])
    .png()
    .toBuffer()
}

async function draw(start: Start, firstStep: number): Promise<Uint8Array> {
  let bytes: Uint8Array = new Uint8Array()
  await generate({ ...plan, start, firstStep }, models, {
    signal: new AbortController().signal,
    onProgress: () => {},
    onImage: (_, encoded) => {
      bytes = encoded.bytes
    },
  })
  return sharp(bytes).removeAlpha().raw().toBuffer()
}

/** The image as it comes out of the autoencoder. */
const roundTrip = async () =>
  draw(
    { kind: 'inpaint', image: await image(), mask: await flat(8, 8, 'black').png().toBuffer() },
    plan.steps - 1,
  )

/** Mean absolute difference, of 255, over the columns [from, to). */
function distance(a: Uint8Array, b: Uint8Array, from = 0, to = side): number {
  let sum = 0
  for (let y = 0; y < side; y++)
    for (let at = 3 * (y * side + from); at < 3 * (y * side + to); at++)
      sum += Math.abs(a[at]! - b[at]!)
  return sum / (3 * side * (to - from))
}

test('strength 0.2, 0.5, 0.8 moves the picture away from its image, step by step', async () => {
  const unchanged = await roundTrip()
  const start = { kind: 'image', image: await image() } as const
  const distances: number[] = []
  for (const firstStep of [16, 10, 4])
    distances.push(distance(await draw(start, firstStep), unchanged))
  expect(distances[0]).toBeLessThan(distances[1]!)
  expect(distances[1]).toBeLessThan(distances[2]!)
})

test('what the mask keeps changes as much as the autoencoder alone changes it', async () => {
  const { bytes } = await image()
  const original = await sharp(bytes).removeAlpha().raw().toBuffer()
  const unchanged = await roundTrip()
  const painted = await draw({ kind: 'inpaint', image: await image(), mask: await rightHalf() }, 0)
  // Within 16 pixels of its edge the decoder sees both sides of the mask.
  const kept = [0, side / 2 - 16] as const
  expect(distance(painted, original, ...kept)).toBeLessThan(
    1.5 * distance(unchanged, original, ...kept) + 2,
  )
  expect(distance(painted, unchanged, side / 2)).toBeGreaterThan(
    10 * distance(painted, unchanged, ...kept),
  )
})
