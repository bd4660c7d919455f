/** The transformer in the fused dialect, through the CPU twins. */
import { beforeAll, describe, expect, test } from 'vitest'
import { portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { cases, runTransformer } from '../../engine/flux/goldenTransformer.js'
import { expectOutputs, goldenCase } from '../../goldens.js'
import { fusedBackend } from './kit.js'
import { relativeError } from './numbers.js'

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  test('agrees with diffusers, block by block', async () => {
    const golden = goldenCase(id)
    const got = await runTransformer(golden, { backend: fusedBackend('F32'), layout })
    // The portable dialect's differences, to 1e-6.
    expectOutputs(golden, got)
  })
})

// Observed, as the largest relative error of any block: float32 2e-7 in bf16 and 2e-7 in fp8;
// bfloat16 6.2e-3 in bf16 and 1.7e-2 in fp8 (codes next to a rounding border fall on either side).
describe.each([
  ['F32', 'bf16', 1e-6],
  ['F32', 'fp8', 1e-5],
  ['BF16', 'bf16', 1e-2],
  ['BF16', 'fp8', 5e-2],
] as const)(
  'in %s, %s agrees with the portable dialect of that precision',
  (dtype, precision, tolerance) => {
    const golden = goldenCase('transformer_tiny-dev')
    const layout = 'tiny-dev'
    let fused: Record<string, Float32Array>
    let portable: Record<string, Float32Array>
    beforeAll(async () => {
      fused = await runTransformer(golden, { backend: fusedBackend(dtype), layout, precision })
      portable = await runTransformer(golden, { backend: portableBackend, layout, precision })
    })

    test.each(Object.keys(golden.outputs))('%s', (name) => {
      expect(relativeError(fused[name]!, portable[name]!)).toBeLessThan(tolerance)
    })
  },
)
