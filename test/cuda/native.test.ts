/**
 * The native addon on ONNX Runtime's CUDA provider, with the CUDA library that is shipped, over stubs
 * that compute nothing: all of it is placed and launched, and the device's memory is given back.
 */
import { beforeAll, expect, test } from 'vitest'
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import { openBackend } from '../../src/engine/runtime/backends/open.js'
import { createGraph } from '../../src/engine/runtime/onnx/graph.js'
import type { Precision } from '../../src/engine/runtime/ops/ops.js'
import { cases, runTransformer } from '../engine/flux/goldenTransformer.js'
import { addWords, storedDTypes, wordInputs } from '../engine/runtime/words.js'
import { goldenCase } from '../goldens.js'
import { count, describeNativeOnStubs, watch } from './kit.js'
import { drawPictures, encodeTexts, expectAllFreed, options, tinyModels } from './tinyModels.js'

const precisions = ['bf16', 'fp8'] as const

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

  test.each(tinyModels)('the text encoders of %s', async (model) => {
    const { requests } = await watch(() => encodeTexts(model, backend))
    expectAllFreed(requests)
  })

  test('pictures in both precisions, with and without a LoRA, one after the other', async () => {
    const { requests } = await watch(() => drawPictures(backend))
    expect(count(requests, 'mergeKernel')).toBeGreaterThan(0)
    expectAllFreed(requests)
  })
})
