/** An engine process over the addon, on the CPU, with the embedded models. */
import { pino } from 'pino'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readConfig } from '../../../src/config.js'
import { type Engine, type GenerateOptions, startEngine } from '../../../src/engine/engine.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import type { BackendKind } from '../../../src/runtime/device.js'
import { foxPlan } from '../../engine/foxPlan.js'
import { fixturePath } from '../../goldens.js'

const { checkpoints, threads, loras } = readConfig({})
const silent = pino({ level: 'silent' })
const start = (backend: BackendKind) => startEngine({ checkpoints, threads, backend }, silent)

const plan: GenerationPlan = {
  ...foxPlan,
  variant: 'schnell',
  prompt: 'a red circle on a white background',
  size: { width: 256, height: 256 },
  guidance: 0,
  seed: 3,
}
const lora = (scale: number) => [{ path: `${loras.builtin}/fofr--shxdo-v2.safetensors`, scale }]

let native: Engine
let ort: Engine
beforeAll(() => {
  native = start('native')
  ort = start('ort')
})
afterAll(async () => {
  await native.stop()
  await ort.stop()
})

async function draw(engine: Engine, changes: Partial<GenerationPlan>, options?: GenerateOptions) {
  const { images } = await engine.generate({ ...plan, ...changes }, options)
  return images[0]!.bytes
}

const pixelsOf = (bytes: Uint8Array) => sharp(bytes).removeAlpha().raw().toBuffer()

/** Of 255. */
async function meanDifference(got: Uint8Array, want: Uint8Array) {
  const [a, b] = [await pixelsOf(got), await pixelsOf(want)]
  return b.reduce((sum, value, i) => sum + Math.abs(value - a[i]!), 0) / b.length
}

const image = await sharp({
  create: { width: 256, height: 256, channels: 3, background: { r: 40, g: 90, b: 200 } },
})
  .png()
  .toBuffer()

describe('its pictures are those of onnxruntime-node', () => {
  test.each<[string, Partial<GenerationPlan>, number]>([
    ['schnell', {}, 0.01],
    ['dev', { variant: 'dev', guidance: 3.5, steps: 6 }, 0.01],
    ['fp8', { precision: 'fp8' }, 4],
    ['a LoRA', { variant: 'dev', guidance: 3.5, steps: 6, loras: lora(1) }, 0.01],
    [
      'a LoRA in fp8',
      { variant: 'dev', guidance: 3.5, steps: 6, precision: 'fp8', loras: lora(0.8) },
      4,
    ],
    ['an image to start from', { start: { kind: 'image', image }, firstStep: 1 }, 0.01],
  ])('%s', async (_, changes, tolerance) => {
    const difference = await meanDifference(await draw(native, changes), await draw(ort, changes))
    if (process.env['SHOW']) console.log(_, difference)
    expect(difference).toBeLessThan(tolerance)
  })
})
