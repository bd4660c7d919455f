import { PassThrough } from 'node:stream'
import { describe, expect, test, vi } from 'vitest'
import { type CompareFlags, compare } from '../../src/cli/compare.js'
import { readConfig } from '../../src/config/config.js'
import { startEngine } from '../../src/worker/engine/client.js'
import { styleOf } from '../embedded/styles.js'
import { createFakeEngine } from '../fakeEngine.js'

function prepare(start: typeof startEngine) {
  const stdout = new PassThrough()
  const run = (prompts: readonly string[], flags: CompareFlags) =>
    compare(prompts, flags, {
      config: readConfig({ FLUXD_DEVICE: 'cpu' }),
      signal: new AbortController().signal,
      stdout,
      stderr: new PassThrough() as unknown as NodeJS.WriteStream,
      start,
    })
  return { run, stdout: () => String(stdout.read() ?? '') }
}

describe('fluxd compare', () => {
  test('draws every prompt in both precisions, from the same seed and with the same LoRAs', async () => {
    const engine = createFakeEngine()
    const { run, stdout } = prepare(() => engine)
    const lora = styleOf('bocaaa')
    await run(['a star', 'a ring'], { seed: '7', steps: '2', lora: [`${lora.path}:0.5`] })
    const common = {
      seed: 7,
      steps: 2,
      loras: [{ path: lora.path, scale: 0.5 }],
      output: { format: 'png' },
      checkSafety: false,
    }
    expect(engine.plans).toMatchObject([
      { prompt: 'a star', precision: 'bf16', ...common },
      { prompt: 'a star', precision: 'fp8', ...common },
      { prompt: 'a ring', precision: 'bf16', ...common },
      { prompt: 'a ring', precision: 'fp8', ...common },
    ])
    expect(stdout()).toBe(
      'PSNR Infinity dB, SSIM 1.0000  a star (seed 7)\n' +
        'PSNR Infinity dB, SSIM 1.0000  a ring (seed 7)\n' +
        'mean of 2: PSNR Infinity dB, SSIM 1.0000\n',
    )
    expect(engine.stops()).toBe(1)
  })

  test('draws one seed for all prompts where none is given', async () => {
    const engine = createFakeEngine()
    await prepare(() => engine).run(['a', 'b'], { steps: '1', numOutputs: '2' })
    expect(new Set(engine.plans.map(({ seed }) => seed)).size).toBe(1)
    expect(engine.plans.every(({ count }) => count === 2)).toBe(true)
  })

  test('says what is wrong with a flag before an engine starts', async () => {
    const start = vi.fn<typeof startEngine>()
    await expect(prepare(start).run(['a'], { steps: '0' })).rejects.toThrow(/^--steps: /)
    expect(start).not.toHaveBeenCalled()
  })

  test('finds fp8 within 25 dB of bf16 on the embedded model, as JSON', async () => {
    const { run, stdout } = prepare(startEngine)
    await run(['a red circle on a blue background'], {
      seed: '7',
      steps: '6',
      megapixels: '0.25',
      json: true,
    })
    const { pictures, mean } = JSON.parse(stdout())
    expect(pictures).toEqual([{ prompt: 'a red circle on a blue background', seed: 7, ...mean }])
    expect(mean.psnr).toBeGreaterThan(25)
    expect(mean.ssim).toBeGreaterThan(0.9)
    expect(mean.ssim).toBeLessThan(1)
  })
})
