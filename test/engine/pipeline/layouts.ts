/** The golden checkpoints in each layout, and which golden cases are to be run on which. */
import {
  openBflTransformer,
  openCheckpoint,
  openLdmAutoencoder,
} from '../../../src/engine/checkpoint/checkpoint.js'
import { fixturePath, readManifest } from '../../goldens.js'

export const checkpoints = {
  'tiny-dev': () => openCheckpoint(fixturePath('tiny-dev')),
  'tiny-schnell': () => openCheckpoint(fixturePath('tiny-schnell')),
  // This layout has no text encoders of its own (fixtures/README.md).
  'tiny-dev-bfl': () => ({
    ...openCheckpoint(fixturePath('tiny-dev')),
    transformer: openBflTransformer(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'), {
      axes: [4, 6, 6],
    }),
    autoencoder: openLdmAutoencoder(fixturePath('tiny-dev-bfl/ae.safetensors'), 4),
  }),
}

/** Every case of these kinds, once for each layout that it is valid for. */
export const listCases = (...kinds: readonly string[]) =>
  readManifest()
    .cases.filter(({ kind }) => kinds.includes(kind))
    .flatMap(({ id, model, also_valid_for = [] }) =>
      [model, ...also_valid_for].map((layout) => ({
        id,
        layout: layout as keyof typeof checkpoints,
      })),
    )

// The reference's libm differs from V8's in the last bit (rng case: 4e-6).
export const noiseTolerance = 4e-6
