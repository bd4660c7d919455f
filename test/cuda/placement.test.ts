/**
 * Every network of the tiny models on ONNX Runtime's CUDA provider, which may leave no operator to
 * the CPU, over stubs that compute nothing: what is proven is that all of it is placed and launched,
 * and that the device's memory is given back.
 */
import { expect, test } from 'vitest'
import { openAutoencoder, openTextSide } from '../../src/checkpoint/checkpoint.js'
import { positionBuckets } from '../../src/flux/t5.js'
import { buildAutoencoderGraphs } from '../../src/pipeline/decoder.js'
import { generate } from '../../src/pipeline/generate.js'
import { loadModels } from '../../src/pipeline/models.js'
import { buildClipGraph, buildT5Graph } from '../../src/pipeline/prompt.js'
import { loadSafetyChecker } from '../../src/pipeline/safety.js'
import type { GenerationPlan } from '../../src/plan/plan.js'
import { createCudaBackend } from '../../src/runtime/cudaBackend.js'
import { createGraph } from '../../src/runtime/graph.js'
import { floatTensor, intTensor } from '../../src/runtime/tensor.js'
import { foxPlan } from '../engine/foxPlan.js'
import { cases, runTransformer } from '../flux/goldenTransformer.js'
import { fixturePath, goldenCase } from '../goldens.js'
import { addWords, storedDTypes, wordInputs } from '../runtime/words.js'
import { safetyFolder } from '../safetyModel.js'
import { count, describeOnStubs, kernels, type Requests, watch } from './kit.js'

const options = { threads: 1, widenWeights: 'run' } as const
const backend = createCudaBackend('flash')
const tinyModels = ['tiny-dev', 'tiny-schnell'] as const
const zeros = (dims: readonly number[]) =>
  floatTensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)

function expectAllFreed({ allocations, frees }: Requests) {
  expect(allocations.length).toBeGreaterThan(0)
  expect(frees).toBe(allocations.length)
}

describeOnStubs('on the CUDA provider', () => {
  test('an operator without a CUDA kernel is refused, not run on the CPU', async () => {
    const graph = createGraph('unplaceable')
    const x = graph.input('x', 'F32', [4])
    graph.output('y', graph.node('Unique', [x]), 'F32', ['count'])
    await expect(backend.createSessions({ graph: { graph } }, options)).rejects.toThrow(
      /on the GPU but it failed.*fallback to CPU EP has been explicitly disabled.*fluxd doctor/,
    )
  })

  const transformers = kernels.flatMap((kernel) =>
    (['bf16', 'fp8'] as const).flatMap((precision) =>
      cases.map((each) => ({ ...each, kernel, precision })),
    ),
  )
  test.each(transformers)('$id from $layout with $kernel attention in $precision', async (each) => {
    const { id, layout, kernel, precision } = each
    const own = createCudaBackend(kernel)
    const golden = goldenCase(id)
    const { requests } = await watch(() =>
      runTransformer(golden, { backend: own, layout, precision }),
    )
    const blocks = Object.keys(golden.outputs).filter((name) => /^single|_img$/.test(name)).length
    if (kernel === 'flash' && blocks > 0) expect(count(requests, 'flash_fwd')).toBe(blocks)
    expect(count(requests, 'RotaryEmbeddingBSNHIf')).toBeGreaterThan(0)
    expectAllFreed(requests)
  })

  test.each(kernels.flatMap((kernel) => tinyModels.map((model) => ({ kernel, model }))))(
    'the text encoders of $model with $kernel attention',
    async ({ kernel, model }) => {
      const own = createCudaBackend(kernel)
      const { clip, t5 } = openTextSide(fixturePath(model))
      const { requests } = await watch(async () => {
        const sessions = await own.createSessions(
          { clip: { graph: buildClipGraph(clip, own) }, t5: { graph: buildT5Graph(t5, own) } },
          options,
        )
        const ids = (length: number) => intTensor(new Int32Array(length), [length])
        const buckets = intTensor(positionBuckets(t5.params, 128), [128, 128])
        await sessions.clip.run({ ids: ids(clip.params.positions) })
        await sessions.t5.run({ ids: ids(128), buckets })
        await sessions.clip.release()
        await sessions.t5.release()
      })
      expect(requests.products).toBeGreaterThan(0)
      expectAllFreed(requests)
    },
  )

  const words = kernels.flatMap((kernel) =>
    (['bf16', 'fp8'] as const).flatMap((precision) =>
      storedDTypes.map((dtype) => ({ kernel, precision, dtype })),
    ),
  )
  test.each(words)(
    'every word over weights in $dtype with $kernel attention in $precision',
    async ({ kernel, precision, dtype }) => {
      const own = createCudaBackend(kernel)
      const graph = addWords(own.ops(createGraph('words'), precision), dtype)
      const { requests } = await watch(async () => {
        const sessions = await own.createSessions({ words: { graph } }, options)
        await sessions.words.run(wordInputs())
        await sessions.words.release()
      })
      expectAllFreed(requests)
    },
  )

  test.each(tinyModels)('the autoencoder of %s', async (model) => {
    const component = openAutoencoder(fixturePath(`${model}/vae`))
    const { decoder, encoder } = buildAutoencoderGraphs(component)
    const { requests } = await watch(async () => {
      const sessions = await backend.createSessions(
        { decoder: { graph: decoder }, encoder: { graph: encoder } },
        options,
      )
      const latents = zeros([1, component.params.latentChannels, 8, 8])
      expect((await sessions.decoder.run({ latents }))['rgb']!.dims).toEqual([64, 64, 3])
      await sessions.encoder.run({ image: zeros([1, 3, 64, 64]) })
      await sessions.decoder.release()
      await sessions.encoder.release()
    })
    expect(requests.cudnn).toBeGreaterThan(0)
    expectAllFreed(requests)
  })

  test('the safety checker', async () => {
    const { requests } = await watch(async () => {
      const checker = await loadSafetyChecker(safetyFolder, 1, backend)
      await checker.check(new Uint8Array(64 * 64 * 3), { width: 64, height: 64 })
      for (const session of checker.sessions) await session.release()
    })
    expect(requests.products).toBeGreaterThan(0)
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
    expectAllFreed(requests)
  })
})
