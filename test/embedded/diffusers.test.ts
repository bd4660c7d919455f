/**
 * The embedded model through fluxd and through diffusers' FluxPipeline (float32, CPU, torch's CPU
 * noise) gives the same picture. Made by diffusers/make.py. 2/255 is the project's bound.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { readConfig } from '../../src/config/config.js'
import { loadModels } from '../../src/engine/models/models.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import { variants } from '../../src/plan/plan.js'
import { expectClose } from '../goldens.js'

const Cases = z.object({
  cases: z.array(
    z.object({
      name: z.string(),
      variant: z.enum(variants),
      prompt: z.string(),
      width: z.number(),
      height: z.number(),
      steps: z.number(),
      guidance: z.number(),
      seed: z.number(),
    }),
  ),
})

const place = (name: string) => fileURLToPath(new URL(`./diffusers/${name}`, import.meta.url))
const { cases } = Cases.parse(JSON.parse(readFileSync(place('cases.json'), 'utf8')))
const { checkpoints, threads } = readConfig({})

describe.each(cases)('$name', ({ name, width, height, ...wish }) => {
  test('every pixel is within 2/255 of diffusers', async () => {
    const models = await loadModels(wish.variant, checkpoints[wish.variant], { threads })
    const pictures: Uint8Array[] = []
    const plan = {
      ...wish,
      precision: 'bf16',
      size: { width, height },
      start: { kind: 'noise' },
      loras: [],
      firstStep: 0,
      count: 1,
      noise: 'torch-cpu',
      output: { format: 'png', quality: 80 },
      checkSafety: false,
      notes: [],
    } as const
    await generate(plan, models, {
      signal: new AbortController().signal,
      onProgress: () => {},
      onImage: (_, { bytes }) => pictures.push(bytes),
    })
    await models.release()
    expect(pictures).toHaveLength(1)
    const pixels = (source: Uint8Array | string) => sharp(source).removeAlpha().raw().toBuffer()
    expectClose(await pixels(pictures[0]!), await pixels(place(`${name}.png`)), 2)
  })
})
