import { describe, test } from 'vitest'
import { portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { expectOutputs, goldenCase } from '../../goldens.js'
import { cases, runTransformer } from './goldenTransformer.js'

describe.each(cases)('$id from $layout', ({ id, layout }) => {
  test('agrees with diffusers, block by block', async () => {
    const golden = goldenCase(id)
    expectOutputs(golden, await runTransformer(golden, { backend: portableBackend, layout }))
  })
})

test('weights widened at run time give the same velocity', async () => {
  const golden = goldenCase('transformer_tiny-dev')
  expectOutputs(
    golden,
    await runTransformer(golden, { backend: portableBackend, layout: 'tiny-dev', widen: 'run' }),
  )
})
