/**
 * FLUXD_VAE=float16 on the addon. On the CPU ONNX Runtime computes a float16 graph in float32, but
 * what our norms read and write is float16, and its range ends at 65504.
 */

import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, expect, test } from 'vitest'
import { requestOf } from '../../../src/bench/cases.js'
import { compareImages } from '../../../src/cli/similarity.js'
import { readConfig } from '../../../src/config/config.js'
import { createModelMemory } from '../../../src/engine/models/memory.js'
import { createMemoryBudget } from '../../../src/engine/models/memoryBudget.js'
import { loadModels } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { openSafetensors } from '../../../src/safetensors/read.js'
import { type Engine, startEngine } from '../../../src/worker/engine/client.js'
import { temporaryFolder } from '../../weightFiles.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'
import { fusedBackend } from './kit.js'

const { checkpoints, threads } = readConfig({})
const plan: GenerationPlan = {
  ...foxPlan,
  variant: 'schnell',
  prompt: 'a red circle on a white background',
  size: { width: 256, height: 256 },
  steps: 2,
  guidance: 0,
  seed: 3,
}

const engines: Engine[] = []
afterAll(() => Promise.all(engines.map((engine) => engine.stop())))

/** An engine over `schnell` and what it logs. */
function start(vae: 'float32' | 'float16', schnell = checkpoints.schnell) {
  const lines: string[] = []
  const logger = pino({ level: 'warn' }, { write: (line) => lines.push(JSON.parse(line).msg) })
  const config = {
    checkpoints: { ...checkpoints, schnell },
    threads,
    backend: 'native',
    vae,
  } as const
  const engine = startEngine(config, logger)
  engines.push(engine)
  const generateImage = async () => {
    const { images } = await engine.generate(requestOf(plan))
    return images[0]!.bytes
  }
  return { generateImage, lines }
}

/** The embedded model with a number in its decoder that float16 does not have. */
function writeLoudModel(): string {
  const folder = join(temporaryFolder(), 'loud')
  cpSync(checkpoints.schnell, folder, { recursive: true })
  const path = join(folder, 'vae/diffusion_pytorch_model.safetensors')
  const bytes = readFileSync(path)
  const million = 0x4974 // as bfloat16
  bytes.writeUInt16LE(million, openSafetensors(path).tensors.get('decoder.conv_in.bias')!.offset)
  writeFileSync(path, bytes)
  return folder
}

// Observed: 56 dB, between bytes.
test('an image decoded in float16 is that of float32', async () => {
  const half = start('float16')
  const whole = start('float32')
  const [got, want] = [await half.generateImage(), await whole.generateImage()]
  expect(got).not.toEqual(want)
  expect((await compareImages(got, want)).psnr).toBeGreaterThan(50)
  expect(half.lines).toEqual([])
})

test('an image beyond the range of float16 is decoded in float32, as are all after it', async () => {
  const model = writeLoudModel()
  const half = start('float16', model)
  const want = await start('float32', model).generateImage()
  expect(await half.generateImage()).toEqual(want)
  expect(await half.generateImage()).toEqual(want)
  expect(half.lines).toEqual([expect.stringMatching(/left the range of float16.*FLUXD_VAE/)])
})

test('a decoder that goes and comes again does not fail a second time', async () => {
  let overflows = 0
  const memory = createModelMemory(createMemoryBudget(Number.POSITIVE_INFINITY))
  const decoding = { dtype: 'F16', onOverflow: () => overflows++ } as const
  const settings = { threads, backend: fusedBackend('F32'), memory, decoding }
  const models = await loadModels('schnell', writeLoudModel(), settings)
  const signal = new AbortController().signal
  const generateImage = () => generate(plan, models, { signal, onProgress() {}, onImage() {} })
  await generateImage()
  await memory.unload([models.decoder])
  await generateImage()
  await models.release()
  expect(overflows).toBe(1)
})
