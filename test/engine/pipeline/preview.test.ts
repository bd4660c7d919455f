import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readConfig } from '../../../src/config/config.js'
import { loadModels, type Models } from '../../../src/engine/models/models.js'
import { generate, type PreviewHooks } from '../../../src/engine/pipeline/generate.js'
import { averageBlocks } from '../../../src/engine/pipeline/preview.js'
import type { EncodedImage } from '../../../src/engine/protocol.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'

describe('averaging', () => {
  const latents = Float32Array.from({ length: 16 * 5 * 4 }, (_, at) => at)

  test('takes the mean of each block and leaves the edge out', () => {
    const { rows, cols, values } = averageBlocks(latents, { rows: 5, cols: 4 }, 2)
    expect([rows, cols, values.length]).toEqual([2, 2, 16 * 2 * 2])
    expect([...values.slice(0, 4)]).toEqual([2.5, 4.5, 10.5, 12.5])
    expect(values[4]).toBe(22.5)
  })

  test('of blocks of one changes nothing', () => {
    expect(averageBlocks(latents, { rows: 5, cols: 4 }, 1).values).toEqual(latents)
  })
})

describe('with the embedded model', () => {
  const { checkpoints, threads } = readConfig({})
  const plan: GenerationPlan = {
    ...foxPlan,
    prompt: 'a yellow circle on a green background',
    size: { width: 512, height: 384 },
    steps: 8,
    guidance: 3,
    seed: 1,
  }

  let models: Models
  beforeAll(async () => {
    models = await loadModels('dev', checkpoints.dev, { threads })
  })
  afterAll(() => models.release())

  async function run(previews?: PreviewHooks, changes: Partial<GenerationPlan> = {}) {
    const images: EncodedImage[] = []
    const { signal } = new AbortController()
    const onImage = (_: number, image: EncodedImage) => images.push(image)
    await generate({ ...plan, ...changes }, models, {
      signal,
      onImage,
      previews,
      onProgress: () => {},
    })
    return images
  }

  test('previews come closer to the image with every step, at a quarter of its area', async () => {
    const previews: EncodedImage[] = []
    const steps: number[] = []
    const [image] = await run({
      isDue: () => true,
      onPreview({ step }, preview) {
        steps.push(step)
        previews.push(preview)
      },
    })
    expect(steps).toEqual([1, 2, 3, 4, 5, 6, 7])
    expect(await sharp(previews[0]!.bytes).metadata()).toMatchObject({
      format: 'webp',
      width: 256,
      height: 192,
    })
    const small = await sharp(image!.bytes).resize(256, 192).removeAlpha().raw().toBuffer()
    const distances = await Promise.all(previews.map(({ bytes }) => meanDistance(bytes, small)))
    // 5.0 after the first step and 2.7 after the last but one were observed.
    expect(distances[0]).toBeLessThan(8)
    expect(distances.at(-1)).toBeLessThan(4)
    expect(distances).toEqual(distances.toSorted((a, b) => b - a))
  })

  test('without a subscription no preview is made, and previews change nothing', async () => {
    const none = await run({ isDue: () => false, onPreview: () => expect.unreachable() })
    const watched = await run({ isDue: () => true, onPreview: () => {} })
    expect(Buffer.from(watched[0]!.bytes)).toEqual(Buffer.from(none[0]!.bytes))
  })
})

/** Of 255, over all channels. */
async function meanDistance(webp: Uint8Array, rgb: Buffer): Promise<number> {
  const pixels = await sharp(webp).removeAlpha().raw().toBuffer()
  return pixels.reduce((sum, value, at) => sum + Math.abs(value - rgb[at]!), 0) / pixels.length
}
