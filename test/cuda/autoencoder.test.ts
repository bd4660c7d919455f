/**
 * The autoencoder at full size in the dialect of the native addon, whose norms are kernels of ours:
 * FLUXD_CUDA_LIBRARY names the library that nvcc made of them. README.md of this folder has the
 * numbers as a table.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addDecoder, addEncoder } from '../../src/engine/flux/autoencoder.js'
import {
  type Addon,
  loadAddon,
  type NativeDevice,
} from '../../src/engine/runtime/backends/native/addon.js'
import { createGraph } from '../../src/engine/runtime/onnx/graph.js'
import { modelConfig } from '../../src/engine/runtime/onnx/proto.js'
import { type ImageDType, imageOps } from '../../src/engine/runtime/ops/vae.js'
import { elementCount } from '../../src/safetensors/tensor.js'
import { temporaryFolder } from '../weightFiles.js'
import { autoencoder, count, show, sparseWeights, stubs, watch } from './kit.js'

const library = process.env['FLUXD_CUDA_LIBRARY']

const directions = {
  decoder: { add: addDecoder, input: 'latents', dims: [1, 16, 128, 128], output: 'rgb', norms: 30 },
  encoder: {
    add: addEncoder,
    input: 'image',
    dims: [1, 3, 1024, 1024],
    output: 'latents',
    norms: 22,
  },
} as const
type Direction = keyof typeof directions

describe.skipIf(!stubs || !library)('the autoencoder at 1024×1024 on the addon', () => {
  const folder = temporaryFolder()
  let addon: Addon
  let device: NativeDevice
  beforeAll(() => {
    addon = loadAddon(
      join(stubs!, 'node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime.so.1'),
    )
    device = new addon.Device({ ordinal: 0, library: library! })
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  /** What one evaluation asks of the device, which may leave nothing to the CPU. */
  async function evaluate(direction: Direction, dtype: ImageDType, preferNhwc: '0' | '1') {
    const { add, input, dims, output } = directions[direction]
    const graph = createGraph(direction)
    const weights = sparseWeights(join(folder, direction))
    add(imageOps(graph, { dtype, groupNorm: 'fused' }), autoencoder, weights)
    const session = new addon.Session(device)
    await session.load(graph.encode(), {
      threads: 1,
      optimization: 'all',
      config: { ...modelConfig, 'session.disable_cpu_ep_fallback': '1' },
      cuda: { arena_extend_strategy: 'kSameAsRequested', prefer_nhwc: preferNhwc },
    })
    const data = new Float32Array(elementCount(dims))
    const value = { dtype: 'F32', dims, data } as const
    const { requests } = await watch(() => session.run({ [input]: value }, { [output]: null }))
    await session.release()
    show(`VAE ${direction}, ${dtype}, prefer_nhwc=${preferNhwc}`, requests)
    return requests
  }

  const cases = (['decoder', 'encoder'] as const).flatMap((direction) =>
    (['F32', 'F16'] as const).map((dtype) => ({ direction, dtype })),
  )
  test.each(cases)('$direction in $dtype is wholly on the GPU', async ({ direction, dtype }) => {
    const requests = await evaluate(direction, dtype, '0')
    const { norms } = directions[direction]
    expect(count(requests, 'momentsKernel')).toBe(norms)
    expect(count(requests, 'groupNormKernel')).toBe(norms)
    expect(count(requests, 'attention_kernel_batched')).toBe(1)
    // The bytes of the picture, and in float16 one of two around the attention; cuBLAS does those
    // of float32.
    expect(count(requests, 'ranspose') - Number(direction === 'decoder')).toBeLessThanOrEqual(1)
  })

  test('channels last, every convolution would stand between transposes', async () => {
    const requests = await evaluate('decoder', 'F16', '1')
    expect(count(requests, 'ranspose')).toBeGreaterThan(60)
  })
})
