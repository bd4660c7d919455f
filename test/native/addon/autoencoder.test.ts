/** The autoencoder in the fused dialect, through the CPU twins. */
import { describe, expect, test } from 'vitest'
import { portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import { layouts, runAutoencoder } from '../../engine/flux/goldenAutoencoder.js'
import { expectOutputs } from '../../goldens.js'
import { addon, device, fusedBackend } from './kit.js'
import { relativeError } from './numbers.js'

const names = Object.keys(layouts) as (keyof typeof layouts)[]
const directions = ['decoder', 'encoder'] as const
const fused = fusedBackend('F32')

describe.each(names)('the autoencoder of %s', (layout) => {
  test.each(directions)('agrees with diffusers: %s', async (direction) => {
    const { golden, outputs } = await runAutoencoder(layout, direction, fused)
    expectOutputs(golden, outputs)
  })
})

// Observed: 9.5e-4 and 8.2e-4. On the CPU ONNX Runtime leaves casts between its operators out, so not
// every rounding is here; test/bench/vaePrecision.ts makes them all.
describe.each([
  ['fused', fused],
  ['portable', portableBackend],
])('in float16, %s', (_, backend) => {
  test('the decoder agrees to its rounding', async () => {
    const { golden, outputs } = await runAutoencoder('tiny-dev', 'decoder', backend, 'F16')
    const want = golden.outputs['image']!.data
    const error = relativeError(outputs['image'] as Float32Array, want)
    expect(error).toBeGreaterThan(1e-5)
    expect(error).toBeLessThan(3e-3)
  })
})

test('a norm over more than one image is refused', async () => {
  const graph = createGraph('norm')
  const x = graph.input('x', 'F32', ['n', 2, 3, 3])
  const affine = graph.floats([1, 1])
  const attributes = { groups: 2, silu: 1 }
  const y = graph.node('GroupNorm', [x, affine, affine], { domain: 'fluxd', attributes })
  graph.output('y', y, 'F32', ['n', 2, 3, 3])
  const session = new addon.Session(device)
  await session.load(graph.encode(), { threads: 1, optimization: 'all' })
  const run = (n: number) =>
    session.run(
      { x: { dtype: 'F32', dims: [n, 2, 3, 3], data: new Float32Array(18 * n) } },
      { y: null },
    )
  // A constant image is its shift: SiLU of 1.
  const { y: norm } = await run(1)
  expect(new Float32Array(norm!.data)[0]).toBeCloseTo(1 / (1 + Math.exp(-1)), 6)
  await expect(run(2)).rejects.toThrow('expected one image but x has 2')
  await session.release()
})
