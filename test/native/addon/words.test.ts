/** Every word of the vocabulary in the fused dialect, through the CPU twins. */
import { describe, expect, test } from 'vitest'
import { type Backend, portableBackend } from '../../../src/runtime/backend.js'
import { createGraph } from '../../../src/runtime/graph.js'
import { addWords, storedDTypes, wordInputs } from '../../runtime/words.js'
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

describe.each(storedDTypes)('over weights in %s', (dtype) => {
  test.each(['bf16', 'fp8'] as const)(
    'every word means what it means in portable: %s',
    async (precision) => {
      const got = await run(fusedBackend('F32'), dtype, precision)
      // Observed: 3.3e-7.
      expect(relativeError(got, await run(portableBackend, dtype, precision))).toBeLessThan(1e-5)
    },
  )
})
