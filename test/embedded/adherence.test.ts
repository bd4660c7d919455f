/**
 * The embedded model generates what its prompts say, through the product's own pipeline.
 * The bounds are those of the project; models/tiny/README.md has what was measured.
 * By default every fourth prompt at 512×512; `npm run test:images` runs all at both sizes.
 */
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { loadModels } from '../../src/engine/models/models.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import { judge, type Verdict } from './judge.js'
import { drawScenes } from './scenes.js'

const isFull = process.env['TEST_IMAGES'] === 'all'
const scenes = drawScenes(40, 2).filter((_, index) => isFull || index % 4 === 0)
const sides = isFull ? [512, 1024] : [512]
const { checkpoints, threads } = readConfig({})
// dev's default of 28 steps takes 2.3 times as long and draws no better.
const steps = { dev: 12, schnell: 4 } as const

const cases = (['dev', 'schnell'] as const).flatMap((variant) =>
  sides.map((side) => ({ variant, side })),
)

describe.each(cases)('$variant at $side × $side', ({ variant, side }) => {
  // 40 pictures of 1024×1024 take minutes: the limit ends a hang only.
  const timeout = 7_200_000
  test('of the prompts colours and positions are 90 % right, shapes 75 %', {
    timeout,
  }, async () => {
    const models = await loadModels(variant, checkpoints[variant], { threads })
    const verdicts: Verdict[] = []
    for (const [i, scene] of scenes.entries()) {
      const plan = {
        variant,
        precision: 'bf16',
        prompt: scene.prompt,
        size: { width: side, height: side },
        start: { kind: 'noise' },
        loras: [],
        steps: steps[variant],
        firstStep: 0,
        guidance: 3,
        seed: i,
        count: 1,
        noise: 'torch-cuda',
        output: { format: 'png', quality: 80 },
        checkSafety: false,
        notes: [],
      } as const
      let bytes = new Uint8Array()
      await generate(plan, models, {
        signal: new AbortController().signal,
        onProgress: () => {},
        onImage: (_, image) => {
          bytes = Uint8Array.from(image.bytes)
        },
      })
      const rgb = await sharp(bytes).raw().toBuffer()
      verdicts.push(judge({ width: side, height: side, rgb }, scene))
    }
    await models.release()
    const share = (what: 'color' | 'background' | 'position' | 'shape') =>
      verdicts.filter((verdict) => verdict[what]).length / verdicts.length
    const measured = {
      color: share('color'),
      background: share('background'),
      position: share('position'),
      shape: share('shape'),
    }
    console.log(`${variant} ${side}²`, JSON.stringify(measured))
    expect(measured.color).toBeGreaterThanOrEqual(0.9)
    expect(measured.background).toBeGreaterThanOrEqual(0.9)
    expect(measured.position).toBeGreaterThanOrEqual(0.9)
    expect(measured.shape).toBeGreaterThanOrEqual(0.75)
  })
})
