/** The graphs that ceilings are measured with, on the CUDA provider: all of it is the device's work. */
import { expect, test } from 'vitest'
import { measureCeilings } from '../../src/bench/ceilings.js'
import { createCudaBackend } from '../../src/runtime/cudaBackend.js'
import { count, describeOnStubs, sum, watch } from './kit.js'

const shape = { rows: 64, inner: 128, outer: 512 }

describeOnStubs('the ceilings of a GPU', () => {
  test('are measured in products and additions of the device, over weights that it holds', async () => {
    const { result, requests } = await watch(() =>
      measureCeilings(shape, ['bf16', 'fp8'], {
        backend: createCudaBackend('flash'),
        threads: 1,
      }),
    )
    expect(result.products.bf16).toBeGreaterThan(0)
    expect(result.copies).toBeGreaterThan(0)
    // Chains of two pairs and of some more, four runs each: two products a pair.
    expect(requests.products % 16).toBe(0)
    expect(requests.products).toBeGreaterThan(0)
    expect(count(requests, 'OP_Add')).toBeGreaterThan(0)
    // A run uploads its column and downloads its row; weights go up once for each session.
    expect(Math.max(...requests.uploads)).toBeLessThanOrEqual(2 * shape.inner * shape.outer)
    expect(sum(requests.downloads) / requests.downloads.length).toBeLessThan(2 ** 16)
    expect(requests.frees).toBe(requests.allocations.length)
  })
})
