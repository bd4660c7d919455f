/** An engine on the CUDA provider: it draws, and a GPU that fails ends the process at most. */

import { rmSync, writeFileSync } from 'node:fs'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { requestOf } from '../../src/bench/cases.js'
import { type Engine, startEngine } from '../../src/worker/engine/client.js'
import { fixturePath } from '../goldens.js'
import { safetyFolder } from '../safetyModel.js'
import { foxPlan } from '../worker/engine/foxPlan.js'
import { describeOnStubs } from './kit.js'

const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
const errorFile = `${process.env['STUB_CUDA_LOG']}.error`

describeOnStubs('an engine on a GPU', () => {
  let engine: Engine
  beforeAll(() => {
    const config = { checkpoints, device: 'cuda', threads: 1, safety: safetyFolder } as const
    engine = startEngine(config, pino({ level: 'silent' }))
  })
  afterEach(() => rmSync(errorFile, { force: true }))
  afterAll(() => engine.stop())

  const draw = async () => {
    const { images } = await engine.generate(requestOf({ ...foxPlan, checkSafety: true }))
    return images.length
  }

  test('draws', async () => {
    expect(await draw()).toBe(1)
  })

  test('goes on when memory was all that lacked, and keeps the machine’s name to itself', async () => {
    const { pid } = engine
    const before = pid()
    writeFileSync(errorFile, '2 cudaMemcpyAsync 1')
    await expect(draw()).rejects.toThrow(
      /^Expected ONNX Runtime to run the graph on the GPU but it failed \(Error: CUDA failure 2: out of memory\)$/,
    )
    rmSync(errorFile)
    expect(await draw()).toBe(1)
    expect(pid()).toBe(before)
  })

  test('is started anew when its process has lost the GPU', async () => {
    const before = engine.pid()
    writeFileSync(errorFile, '700 cudaMemcpyAsync 1')
    await expect(draw()).rejects.toMatchObject({ code: 'engine_died' })
    rmSync(errorFile)
    expect(await draw()).toBe(1)
    expect(engine.pid()).not.toBe(before)
  })
})
