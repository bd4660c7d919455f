/**
 * The native addon on ONNX Runtime's CUDA provider, with the CUDA library that is shipped, over stubs
 * that compute nothing: all of it is placed and launched, and the device's memory is given back.
 */
import { beforeAll, expect, test } from 'vitest'
import { openTextSide } from '../../src/checkpoint/checkpoint.js'
import { positionBuckets } from '../../src/flux/t5.js'
import { generate } from '../../src/pipeline/generate.js'
import { loadModels } from '../../src/pipeline/models.js'
import { buildClipGraph, buildT5Graph } from '../../src/pipeline/prompt.js'
import type { GenerationPlan } from '../../src/plan/plan.js'
import type { Backend } from '../../src/runtime/backend.js'
import { openBackend } from '../../src/runtime/device.js'
import { createGraph } from '../../src/runtime/graph.js'
import type { Precision } from '../../src/runtime/ops.js'
import { intTensor } from '../../src/runtime/tensor.js'
import { foxPlan } from '../engine/foxPlan.js'
import { cases, runTransformer } from '../flux/goldenTransformer.js'
import { fixturePath, goldenCase } from '../goldens.js'
import { addWords, storedDTypes, wordInputs } from '../runtime/words.js'
import { count, describeNativeOnStubs, type Requests, watch } from './kit.js'

const options = { threads: 1, widenWeights: 'run' } as const
const precisions = ['bf16', 'fp8'] as const

function expectAllFreed({ allocations, frees }: Requests) {
  expect(allocations.length).toBeGreaterThan(0)
  expect(frees).toBe(allocations.length)
}

async function runWords(
  backend: Backend,
  dtype: (typeof storedDTypes)[number],
  precision: Precision,
) {
  const graph = addWords(backend.ops(createGraph('words'), precision), dtype)
  const { words } = await backend.createSessions({ words: { graph } }, options)
  await words.run(wordInputs())
  await words.release()
}

describeNativeOnStubs('the addon on the CUDA provider', () => {
  let backend: Backend
  beforeAll(async () => {
    backend = openBackend('cuda', 'native')
    // The scratch memory of its stream stays.
    await runWords(backend, 'BF16', 'bf16')
  })

  test.each(precisions.flatMap((precision) => cases.map((each) => ({ ...each, precision }))))(
    '$id from $layout in $precision',
    async ({ id, layout, precision }) => {
      const golden = goldenCase(id)
      const { requests } = await watch(() => runTransformer(golden, { backend, layout, precision }))
      expect(count(requests, 'qkNormRopeKernel')).toBeGreaterThan(0)
      expectAllFreed(requests)
    },
  )

  test.each(precisions.flatMap((precision) => storedDTypes.map((dtype) => ({ precision, dtype }))))(
    'every word over weights in $dtype in $precision',
    async ({ precision, dtype }) => {
      const { requests } = await watch(() => runWords(backend, dtype, precision))
      expectAllFreed(requests)
    },
  )

  test.each(['tiny-dev', 'tiny-schnell'])('the text encoders of %s', async (model) => {
    const { clip, t5 } = openTextSide(fixturePath(model))
    const { requests } = await watch(async () => {
      const sessions = await backend.createSessions(
        {
          clip: { graph: buildClipGraph(clip, backend) },
          t5: { graph: buildT5Graph(t5, backend) },
        },
        options,
      )
      const ids = (length: number) => intTensor(new Int32Array(length), [length])
      const buckets = intTensor(positionBuckets(t5.params, 128), [128, 128])
      await sessions.clip.run({ ids: ids(clip.params.positions) })
      await sessions.t5.run({ ids: ids(128), buckets })
      await sessions.clip.release()
      await sessions.t5.release()
    })
    expectAllFreed(requests)
  })

  test('pictures in both precisions, with and without a LoRA, one after the other', async () => {
    const lora = { path: fixturePath('lora/lora_peft.safetensors'), scale: 0.8, name: 'peft' }
    const plans = (['bf16', 'fp8', 'bf16'] as const).flatMap((precision): GenerationPlan[] => [
      { ...foxPlan, precision },
      { ...foxPlan, precision, loras: [lora] },
    ])
    let pictures = 0
    const hooks = {
      signal: new AbortController().signal,
      onProgress: () => {},
      onImage: () => {
        pictures++
      },
    }
    const { requests } = await watch(async () => {
      const models = await loadModels('dev', fixturePath('tiny-dev'), { threads: 1, backend })
      for (const plan of plans) await generate(plan, models, hooks)
      await models.release()
    })
    expect(pictures).toBe(plans.length)
    expect(count(requests, 'mergeKernel')).toBeGreaterThan(0)
    expectAllFreed(requests)
  })
})
