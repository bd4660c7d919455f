/** Every word of the vocabulary in the fused dialect, through the CPU twins. */
import { describe, expect, test } from 'vitest'
import { type Backend, portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import { addWords, storedDTypes, wordInputs } from '../../engine/runtime/words.js'
import { fusedBackend } from './kit.js'
import { relativeError } from './numbers.js'

async function run(
  backend: Backend,
  dtype: (typeof storedDTypes)[number],
  precision: 'bf16' | 'fp8',
) {
  const graph = addWords(backend.ops(createGraph('words'), precision), dtype)
  const { words } = await backend.createSessions(
    { words: { graph } },
    { threads: 1, widenWeights: 'run' },
  )
  const { y } = await words.run(wordInputs())
  await words.release()
  return y!.data
}

describe.each(storedDTypes)('over weights in %s', (stored) => {
  test.each([
    // Observed: 3.3e-7; in bfloat16 6.4e-3, and 7e-2 where codes fall on either side of a border.
    ['F32', 'bf16', 1e-5],
    ['F32', 'fp8', 1e-5],
    ['BF16', 'bf16', 2e-2],
    ['BF16', 'fp8', 0.2],
  ] as const)('every word is that of portable: in %s, %s', async (dtype, precision, tolerance) => {
    const got = await run(fusedBackend(dtype), stored, precision)
    const wanted = await run(portableBackend, stored, precision)
    expect(relativeError(got, wanted)).toBeLessThan(tolerance)
  })
})
