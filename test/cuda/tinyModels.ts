/** What the stubs are asked for by both backends: the tiny models' text encoders and whole pictures. */
import { expect } from 'vitest'
import { openTextSide } from '../../src/engine/checkpoint/checkpoint.js'
import { positionBuckets } from '../../src/engine/flux/t5.js'
import { loadModels } from '../../src/engine/models/models.js'
import { buildClipGraph, buildT5Graph } from '../../src/engine/models/textEncoders.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import type { GenerationPlan } from '../../src/plan/plan.js'
import { intTensor } from '../../src/safetensors/tensor.js'
import { fixturePath } from '../goldens.js'
import { foxPlan } from '../worker/engine/foxPlan.js'
import type { Requests } from './kit.js'

export const options = { threads: 1, widenWeights: 'run' } as const
export const tinyModels = ['tiny-dev', 'tiny-schnell'] as const

export function expectAllFreed({ allocations, frees }: Requests): void {
  expect(allocations.length).toBeGreaterThan(0)
  expect(frees).toBe(allocations.length)
}

/** Loads both text encoders, runs each once, and gives them back. */
export async function encodeTexts(model: string, backend: Backend): Promise<void> {
  const { clip, t5 } = openTextSide(fixturePath(model))
  const sessions = await backend.createSessions(
    { clip: { graph: buildClipGraph(clip, backend) }, t5: { graph: buildT5Graph(t5, backend) } },
    options,
  )
  const ids = (length: number) => intTensor(new Int32Array(length), [length])
  const buckets = intTensor(positionBuckets(t5.params, 128), [128, 128])
  await sessions.clip.run({ ids: ids(clip.params.positions) })
  await sessions.t5.run({ ids: ids(128), buckets })
  await sessions.clip.release()
  await sessions.t5.release()
}

/** Six pictures in both precisions, with and without a LoRA, one after the other. */
export async function drawPictures(backend: Backend): Promise<void> {
  const lora = { path: fixturePath('lora/lora_peft.safetensors'), scale: 0.8, name: 'peft' }
  const plans = (['bf16', 'fp8', 'bf16'] as const).flatMap((precision): GenerationPlan[] => [
    { ...foxPlan, precision },
    { ...foxPlan, precision, loras: [lora] },
  ])
  let pictures = 0
  const { signal } = new AbortController()
  const onImage = () => void pictures++
  const models = await loadModels('dev', fixturePath('tiny-dev'), { threads: 1, backend })
  for (const plan of plans) await generate(plan, models, { signal, onProgress: () => {}, onImage })
  await models.release()
  expect(pictures).toBe(plans.length)
}
