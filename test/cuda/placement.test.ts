/**
 * Every network of the tiny models on ONNX Runtime's CUDA provider, which may leave no operator to
 * the CPU, over stubs that compute nothing: what is proven is that all of it is placed and launched,
 * and that the device's memory is given back.
 */
import { expect, test } from 'vitest'
import { openAutoencoder } from '../../src/engine/checkpoint/checkpoint.js'
import { loadSafetyChecker } from '../../src/engine/models/safetyChecker.js'
import { buildAutoencoderGraphs } from '../../src/engine/models/vae.js'
import { createCudaBackend } from '../../src/engine/runtime/backends/ort/cuda.js'
import { createGraph } from '../../src/engine/runtime/onnx/graph.js'
import { floatTensor } from '../../src/safetensors/tensor.js'
import { cases, runTransformer } from '../engine/flux/goldenTransformer.js'
import { addWords, storedDTypes, wordInputs } from '../engine/runtime/words.js'
import { fixturePath, goldenCase } from '../goldens.js'
import { safetyFolder } from '../safetyModel.js'
import { count, describeOnStubs, kernels, watch } from './kit.js'
import { drawPictures, encodeTexts, expectAllFreed, options, tinyModels } from './tinyModels.js'

const backend = createCudaBackend('flash')
const zeros = (dims: readonly number[]) =>
  floatTensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)

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
      const { requests } = await watch(() => encodeTexts(model, own))
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
    const { requests } = await watch(() => drawPictures(backend))
    expectAllFreed(requests)
  })
})
