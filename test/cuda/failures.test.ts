/** What fails on the GPU reaches the caller in its own words, leaks nothing and breaks nothing else. */

import { rmSync, writeFileSync } from 'node:fs'
import { pino } from 'pino'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { requestOf } from '../../src/bench/cases.js'
import { loadModels } from '../../src/engine/models/models.js'
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import { openBackend } from '../../src/engine/runtime/backends/open.js'
import type { GenerationPlan } from '../../src/plan/plan.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { fixturePath } from '../goldens.js'
import { foxPlan } from '../worker/engine/foxPlan.js'
import { describeNativeOnStubs, watch } from './kit.js'

const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
const errorFile = `${process.env['STUB_CUDA_LOG']}.error`

/** Lets calls of a function fail while `work` goes on: `ERROR FUNCTION CALL` as in device.c. */
async function failing<T>(fault: string, work: () => Promise<T>): Promise<T> {
  writeFileSync(errorFile, fault)
  try {
    return await work()
  } finally {
    rmSync(errorFile)
  }
}

afterEach(() => rmSync(errorFile, { force: true }))

describeNativeOnStubs('loading', () => {
  let backend: Backend
  const load = () => loadModels('dev', checkpoints.dev, { threads: 1, backend })
  beforeAll(() => {
    backend = openBackend('cuda', 'native')
  })

  const places = [1, 2, 3, 4, 6, 8, 11, 16, 24, 32, 48, 64]
  test.each([
    ['cudaMalloc', 2],
    ['cudaHostAlloc', 2],
    ['cudaMemcpyAsync', 700],
    ['cudaStreamSynchronize', 700],
  ])('gives back what it had when %s fails, wherever that is', async (name, error) => {
    let failures = 0
    for (const place of places) {
      const { result, requests } = await watch(() =>
        failing(`${error} ${name} ${place}`, () => load().catch((reason: Error) => reason)),
      )
      if (!(result instanceof Error)) {
        await result.release()
        continue
      }
      failures++
      expect(result).toMatchObject({ code: error === 2 ? 'engine_failed' : 'engine_died' })
      expect(result.message).toMatch(error === 2 ? /out of memory|Failed to allocate/ : /an error/)
      expect(requests.frees).toBe(requests.allocations.length)
    }
    expect(failures).toBeGreaterThan(0)
    await (await load()).release()
  })
})

describeNativeOnStubs('an engine', () => {
  const lora = { path: fixturePath('lora/lora_peft.safetensors'), scale: 0.8, name: 'peft' }
  const adapted = (scale: number): GenerationPlan => ({ ...foxPlan, loras: [{ ...lora, scale }] })

  const draw = async (engine: Engine, plan: GenerationPlan = foxPlan) =>
    (await engine.generate(requestOf(plan))).images.length

  async function withEngine(work: (engine: Engine) => Promise<void>) {
    const config = { checkpoints, device: 'cuda', backend: 'native', threads: 1 } as const
    const engine = startEngine(config, pino({ level: 'silent' }))
    try {
      await work(engine)
    } finally {
      await engine.stop()
    }
  }

  test.each([
    ['a weight finds no room', '2 cudaMalloc 3', /take the weights .*bytes of device memory but/],
    ['pinned memory is short', '2 cudaHostAlloc 1', /take the weights .*out of memory/],
  ])('goes on when %s while it loads', (_, fault, message) =>
    withEngine(async (engine) => {
      await expect(failing(fault, () => draw(engine))).rejects.toMatchObject({
        code: 'engine_failed',
        message: expect.stringMatching(message),
      })
      const pid = engine.pid()
      expect(await draw(engine)).toBe(1)
      expect(engine.pid()).toBe(pid)
    }),
  )

  test('is started anew when it loses the GPU while it loads', () =>
    withEngine(async (engine) => {
      await expect(failing('700 * 1', () => engine.load('dev'))).rejects.toMatchObject({
        code: 'engine_died',
        message: expect.stringMatching(/^The engine process has lost the GPU \(.*an error/),
      })
      await engine.load('dev')
      expect(await draw(engine)).toBe(1)
    }))

  const large: GenerationPlan = { ...foxPlan, size: { width: 512, height: 512 } }
  test('goes on after what it lacked memory for, with the same weights or others', () =>
    withEngine(async (engine) => {
      expect(await draw(engine)).toBe(1)
      const pid = engine.pid()
      for (const [plan, fault, message] of [
        [large, '2 cudaMalloc 1', /run the graph .*Failed to allocate memory/],
        [foxPlan, '3 cublasLtMatmul 1', /run the graph .*CUBLAS_STATUS_ALLOC_FAILED/],
        [adapted(0.8), '2 cudaHostAlloc 1', /merge LoRAs .*out of memory/],
        [adapted(0.4), '2 cudaMemcpyAsync 1', /merge LoRAs .*out of memory/],
        [foxPlan, '2 cudaLaunchKernelExC 2', /merge LoRAs .*out of memory/],
      ] as const) {
        await expect(failing(fault, () => draw(engine, plan))).rejects.toMatchObject({
          code: 'engine_failed',
          message: expect.stringMatching(message),
        })
        expect(await draw(engine, plan)).toBe(1)
      }
      expect(engine.pid()).toBe(pid)
    }))

  test.each([
    ['a run', foxPlan, '13 cublasLtMatmul 1', 'CUBLAS_STATUS_EXECUTION_FAILED'],
    ['a run', foxPlan, '700 cudaLaunchKernelExC 3', 'cudaErrorIllegalAddress: an error'],
    ['a run', foxPlan, '700 * 1', 'CUDA failure 700: an error'],
    ['a merge', adapted(0.8), '700 cudaLaunchKernelExC 1', 'cudaErrorIllegalAddress: an error'],
    ['a merge', adapted(0.8), '700 * 1', 'cudaErrorIllegalAddress: an error'],
  ])('is started anew when it loses the GPU in %s: %#', (_, plan, fault, words) =>
    withEngine(async (engine) => {
      expect(await draw(engine)).toBe(1)
      const pid = engine.pid()
      const lost = failing(fault, () => draw(engine, plan))
      await expect(lost).rejects.toMatchObject({
        code: 'engine_died',
        message: expect.stringContaining(words),
      })
      expect(await draw(engine, plan)).toBe(1)
      expect(engine.pid()).not.toBe(pid)
    }),
  )
})
