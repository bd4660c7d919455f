/** The autoencoder's way in: pixels → latents. Loaded when the first image comes. */

import type { PixelSize } from '../../plan/plan.js'
import { type FloatTensor, floatTensor } from '../../safetensors/tensor.js'
import type { Component } from '../checkpoint/checkpoint.js'
import type { AutoencoderParams } from '../flux/params.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { Session, SessionOptions } from '../runtime/backends/ort/session.js'
import { buildAutoencoderGraphs } from './vaeDecoder.js'

export type Encoder = {
  /** An image [3, H, W] in [−1, 1] → scaled latents [C, H/8, W/8]: the mode, nothing is sampled. */
  readonly encode: (
    image: Float32Array,
    size: PixelSize,
    signal?: AbortSignal,
  ) => Promise<Float32Array>
  readonly sessions: readonly Session[]
}

export async function loadEncoder(
  component: Component<AutoencoderParams>,
  options: SessionOptions,
  backend: Backend = portableBackend,
): Promise<Encoder> {
  const graph = buildAutoencoderGraphs(component, backend).encoder
  const { session } = await backend.createSessions({ session: { graph } }, options)
  return {
    async encode(image, { width, height }, signal) {
      const inputs = { image: floatTensor(image, [1, 3, height, width]) }
      const { latents } = await session.run(inputs, { signal })
      return (latents as FloatTensor).data
    },
    sessions: [session],
  }
}
