/**
 * A step of the addon on the CUDA provider: what it sends to the device, and how it becomes a CUDA
 * graph. The stubs capture everything: that a GPU may refuse what is captured here is not tested.
 */
import { expect, test } from 'vitest'
import {
  type BoundSteps,
  loadTransformer,
  type Transformer,
} from '../../src/engine/models/transformer.js'
import { ropeTables } from '../../src/engine/pipeline/latents.js'
import { floatTensor } from '../../src/safetensors/tensor.js'
import { tinyDev } from '../engine/lora/tinyDev.js'
import { createNativeBackend, describeNativeOnStubs, watch } from './kit.js'

const options = { threads: 1, widenWeights: 'run' } as const
const { inChannels, txtDim, vecDim, axes, headDim } = tinyDev.params
const steps = 4
const txtTokens = 10
const zeros = (...dims: number[]) =>
  floatTensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)

const load = (captures?: number) =>
  loadTransformer(tinyDev, options, 'bf16', createNativeBackend(captures))

/** The steps of a picture of 4 rows of tokens. */
async function place({ condition, bindSteps }: Transformer, cols: number): Promise<BoundSteps> {
  const conditioning = await condition({
    prompt: { hidden: zeros(txtTokens, txtDim), pooled: zeros(1, vecDim) },
    timesteps: Array.from({ length: steps }, () => new Float32Array(256)),
    guidance: new Float32Array(256),
  })
  const tables = ropeTables(txtTokens, 4, cols, axes)
  const dims = [txtTokens + 4 * cols, headDim / 2]
  const rope = { cos: floatTensor(tables.cos, dims), sin: floatTensor(tables.sin, dims) }
  return bindSteps(conditioning, rope)
}

const maxTableBytes = 2048
const latentsOf = (cols: number) => new Float32Array(4 * cols * inChannels)

async function release({ sessions }: Transformer) {
  for (const session of sessions) await session.release()
}

describeNativeOnStubs('a step on the CUDA provider', () => {
  test('sends up the latents, and the velocity comes down; the rest lies there', async () => {
    const transformer = await load()
    const { predict, release: giveBack } = await place(transformer, 6)
    const latents = latentsOf(6)
    // ONNX Runtime allocates in two runs: piece by piece, then as it has seen it.
    for (const step of [0, 1]) await predict(latents, step)
    const { requests } = await watch(() => predict(latents, 2))
    // The others say where the parts of a Concat or Split lie.
    expect(requests.uploads.filter((bytes) => bytes > maxTableBytes)).toEqual([latents.byteLength])
    expect(requests.downloads).toEqual([latents.byteLength])
    expect(requests.allocations).toEqual([])
    const after = await watch(giveBack)
    // The text stream, two tables, and a row of modulation for each step.
    expect(after.requests.frees).toBe(3 + steps)
    await release(transformer)
  })

  test('is captured in its second run, and from then on one launch', async () => {
    const transformer = await load(2)
    const sizes = [6, 8, 10]
    const placed = await Promise.all(sizes.map((cols) => place(transformer, cols)))
    const tables: string[] = []
    const watchRun = async (i: number, step: number) => {
      const latents = latentsOf(sizes[i]!)
      const { requests } = await watch(() => placed[i]!.predict(latents, step))
      // Graphs upload their tables anew each time, so nobody may have written others there.
      expect(requests.sources.filter((from) => tables.includes(from))).toEqual([])
      return requests
    }
    for (const i of [0, 1]) {
      const first = await watchRun(i, 0)
      expect(first).toMatchObject({ captures: 0, launches: 0 })
      const second = await watchRun(i, 1)
      expect(second).toMatchObject({ captures: 1, launches: 1 })
      // Two runs to get all memory, and the captured one.
      expect(second.products).toBe(3 * first.products)
      const kinds = second.captured.map((line) => line.split(' ')[0]!)
      expect(new Set(kinds)).toEqual(new Set(['KERNEL', 'GEMM', 'CUDNN', 'COPY']))
      const computed = kinds.filter((kind) => kind !== 'COPY').length
      expect(computed).toBe(first.kernels.length + first.products + first.cudnn)
      for (const line of second.captured)
        if (line.startsWith('COPY ')) tables.push(line.split(' ')[3]!)
    }
    expect(tables.length).toBeGreaterThan(0)
    // Between each other, and with a size that is never captured.
    for (const step of [2, 3, 0]) {
      for (const i of [0, 1]) {
        const { kernels, products, cudnn, launches, uploads, downloads, allocations } =
          await watchRun(i, step)
        const bytes = latentsOf(sizes[i]!).byteLength
        expect({ kernels, products, cudnn, launches }).toEqual({
          ...{ kernels: [], products: 0, cudnn: 0, launches: 1 },
        })
        expect(uploads).toEqual([bytes])
        expect(downloads).toEqual([bytes])
        expect(allocations).toEqual([])
      }
      const ordinary = await watchRun(2, step)
      expect(ordinary).toMatchObject({ captures: 0, launches: 0 })
      expect(ordinary.products).toBeGreaterThan(0)
    }
    for (const each of placed) await each.release()
    await release(transformer)
  })

  test('gives all memory back, that of its graphs too', async () => {
    const { requests } = await watch(async () => {
      const transformer = await load(1)
      const { predict, release: giveBack } = await place(transformer, 6)
      for (let step = 0; step < steps; step++) await predict(latentsOf(6), step)
      await giveBack()
      await release(transformer)
    })
    expect(requests).toMatchObject({ captures: 1, launches: steps - 1 })
    // A device keeps 64 MB for the products on its stream until it goes; an earlier one may go now.
    const kept = requests.allocations.filter((bytes) => bytes >= 2 ** 26)
    expect(requests.allocations.length - requests.frees).toBeLessThanOrEqual(kept.length)
  })
})
