import { describe, test } from 'vitest'
import { portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { expectOutputs } from '../../goldens.js'
import { layouts, runAutoencoder } from './goldenAutoencoder.js'

const names = Object.keys(layouts) as (keyof typeof layouts)[]

describe.each(names)('the autoencoder of %s', (layout) => {
  test('decodes latents as diffusers does', async () => {
    const { golden, outputs } = await runAutoencoder(layout, 'decoder', portableBackend)
    expectOutputs(golden, outputs)
  })

  test('encodes an image as diffusers does', async () => {
    const { golden, outputs } = await runAutoencoder(layout, 'encoder', portableBackend)
    expectOutputs(golden, outputs)
  })
})
