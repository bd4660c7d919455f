/**
 * The networks of Flux.1 dev at their real shapes, over weights that are a hole in a file: what one
 * evaluation asks of the device. README.md of this folder has the numbers as a table.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addDecoder, addEncoder } from '../../src/engine/flux/autoencoder.js'
import { addClip } from '../../src/engine/flux/clip.js'
import { addConditioning } from '../../src/engine/flux/conditioning.js'
import { modulationSize } from '../../src/engine/flux/modulation.js'
import { addT5, positionBuckets } from '../../src/engine/flux/t5.js'
import { addTransformer } from '../../src/engine/flux/transformer.js'
import { openBackend } from '../../src/engine/runtime/backends/open.js'
import { createCudaBackend } from '../../src/engine/runtime/backends/ort/cuda.js'
import type { Session } from '../../src/engine/runtime/backends/ort/session.js'
import { createGraph } from '../../src/engine/runtime/onnx/graph.js'
import { portableOps } from '../../src/engine/runtime/ops/portable.js'
import { floatTensor, intTensor } from '../../src/safetensors/tensor.js'
import { fullSizes } from '../bench/randomWeights.js'
import { temporaryFolder } from '../weightFiles.js'
import {
  autoencoder,
  count,
  describeNativeOnStubs,
  describeOnStubs,
  kernels,
  type Requests,
  show,
  sparseWeights,
  sum,
  watch,
} from './kit.js'

const options = { threads: 1, widenWeights: 'run' } as const
const zeros = (...dims: number[]) =>
  floatTensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)

const dev = { ...fullSizes.flux, guidance: true }
const { t5, clip } = fullSizes

const stepFeeds = () => ({
  img: zeros(4096, dev.inChannels),
  txt: zeros(512, 3072),
  modulation: zeros(modulationSize(dev)),
  cos: zeros(4608, dev.headDim / 2),
  sin: zeros(4608, dev.headDim / 2),
})

let folder: string
const inFolder = (name: string) => sparseWeights(join(folder, name))

describeOnStubs('at full size', () => {
  beforeAll(() => {
    folder = temporaryFolder()
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  describe.each(kernels)('Flux.1 dev at 1024×1024 with %s attention', (kernel) => {
    let weights: ReturnType<typeof inFolder>
    let sessions: Readonly<Record<'conditioning' | 'step', Session>>
    let opening: Requests

    beforeAll(async () => {
      weights = inFolder('transformer')
      const backend = createCudaBackend(kernel)
      const conditioning = createGraph('conditioning')
      addConditioning(backend.ops(conditioning), dev, weights)
      const step = createGraph('step')
      addTransformer(backend.ops(step), dev, weights)
      const models = { conditioning: { graph: conditioning }, step: { graph: step } }
      const opened = await watch(() => backend.createSessions(models, options))
      sessions = opened.result
      opening = opened.requests
    })

    test('fills the device with its weights and nothing else', () => {
      expect(weights.bytes()).toBe(23_802_816_640)
      expect(sum(opening.allocations) - weights.bytes()).toBeLessThan(2 ** 20)
      expect(sum(opening.uploads) - weights.bytes()).toBeLessThan(2 ** 20)
    })

    test('conditions 28 steps', async () => {
      const feeds = {
        hidden: zeros(512, dev.txtDim),
        pooled: zeros(1, dev.vecDim),
        timesteps: zeros(28, 256),
        guidance: zeros(1, 256),
      }
      const { requests } = await watch(() => sessions.conditioning.run(feeds))
      show(`conditioning, ${kernel}`, requests)
      // 19·2 + 38 + 2 modulations, 6 embedders, the text's.
      expect(requests.products).toBe(85)
    })

    test('evaluates a step in bfloat16', async () => {
      const feeds = stepFeeds()
      const { requests } = await watch(() => sessions.step.run(feeds))
      show(`step, ${kernel}`, requests)
      // 12 layers of a double block, 5 of a single one, two at the ends: one product each.
      expect(requests.products).toBe(19 * 12 + 38 * 5 + 2)
      expect(count(requests, 'flash_fwd')).toBe(kernel === 'flash' ? 57 : 0)
      expect(requests.cudnn).toBe(kernel === 'flash' ? 0 : 57)
      expect(count(requests, 'RotaryEmbeddingBSNHIf')).toBe(2 * 57)
      expect(count(requests, 'Transpose')).toBe(0)
      // Beside the inputs, tables of where parts of a Concat or Split lie.
      const inputs = Object.values(feeds).map(({ data }) => data.byteLength)
      expect(sum(requests.uploads) - sum(inputs)).toBeLessThan(8 * 2 ** 20)
      expect(requests.downloads).toEqual([4096 * dev.inChannels * 4])
    })

    test('gives it all back', async () => {
      const { requests } = await watch(async () => {
        await sessions.conditioning.release()
        await sessions.step.release()
      })
      expect(requests.frees).toBeGreaterThan(opening.uploads.length)
    })
  })

  test.each(kernels)('T5 and CLIP with %s attention', async (kernel) => {
    const backend = createCudaBackend(kernel)
    const ofT5 = createGraph('t5')
    addT5(backend.ops(ofT5), t5, inFolder('t5'))
    const ofClip = createGraph('clip')
    addClip(backend.ops(ofClip), clip, inFolder('clip'))
    const models = { t5: { graph: ofT5 }, clip: { graph: ofClip } }
    const sessions = await backend.createSessions(models, options)
    const ids = (length: number) => intTensor(new Int32Array(length), [length])
    const buckets = intTensor(positionBuckets(t5, 512), [512, 512])
    const first = await watch(() => sessions.t5.run({ ids: ids(512), buckets }))
    show(`T5, ${kernel}`, first.requests)
    expect(first.requests.products).toBe(7 * t5.layers)
    const second = await watch(() => sessions.clip.run({ ids: ids(clip.positions) }))
    show(`CLIP, ${kernel}`, second.requests)
    expect(second.requests.products).toBe(6 * clip.layers)
    for (const session of Object.values(sessions)) await session.release()
  })

  test('the autoencoder, whose attention over all pixels holds no matrix of scores', async () => {
    const weights = inFolder('autoencoder')
    const decoder = createGraph('decoder')
    addDecoder(portableOps(decoder), autoencoder, weights)
    const encoder = createGraph('encoder')
    addEncoder(portableOps(encoder), autoencoder, weights)
    const sessions = await createCudaBackend('flash').createSessions(
      { decoder: { graph: decoder }, encoder: { graph: encoder } },
      options,
    )
    const decoded = await watch(() => sessions.decoder.run({ latents: zeros(1, 16, 128, 128) }))
    show('decoder', decoded.requests)
    const encoded = await watch(() => sessions.encoder.run({ image: zeros(1, 3, 1024, 1024) }))
    show('encoder', encoded.requests)
    for (const { requests } of [decoded, encoded]) {
      expect(count(requests, 'attention_kernel_batched')).toBe(1)
      expect(requests.cudnn).toBeGreaterThan(0)
    }
    for (const session of Object.values(sessions)) await session.release()
  })
})

describeNativeOnStubs('at full size with the addon', () => {
  // Layers that a product is made for: a double block's two streams have four each, q, k and v being
  // one; a single block has three; and two at the ends.
  const products = 19 * 8 + 38 * 3 + 2
  const values = 4608 * 3072

  test.each(['bf16', 'fp8'] as const)('evaluates a step in %s', async (precision) => {
    const own = temporaryFolder()
    try {
      const backend = openBackend('cuda', 'native')
      const step = createGraph('step')
      const weights = sparseWeights(join(own, 'transformer'), { isOneHole: true })
      addTransformer(backend.ops(step, precision), dev, weights)
      const sessions = await backend.createSessions({ step: { graph: step } }, options)
      const feeds = stepFeeds()
      const { requests } = await watch(() => sessions.step.run(feeds))
      show(`step, addon, ${precision}`, requests)
      expect(requests.products).toBe(products)
      expect(requests.cudnn).toBe(57)
      // [txt, img] alone is joined: attention and feed-forward of a single block stand side by side
      // from the start, or are quantised as if they did.
      expect(count(requests, 'ConcatKernel')).toBe(1)
      expect(count(requests, 'quantizeRowsKernel')).toBe(precision === 'fp8' ? 19 * 4 + 38 : 0)
      expect(requests.moves).toEqual(new Array(precision === 'fp8' ? 0 : 38).fill(2 * values))
      const inputs = Object.values(feeds).map(({ data }) => data.byteLength)
      expect(sum(requests.uploads) - sum(inputs)).toBeLessThan(2 ** 16)
      await sessions.step.release()
    } finally {
      rmSync(own, { recursive: true, force: true })
    }
  })
})
