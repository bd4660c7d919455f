/** The autoencoder's way out: latents → pixels. */
import type { Component } from '../checkpoint/checkpoint.js'
import { addDecoder, addEncoder } from '../flux/autoencoder.js'
import type { AutoencoderParams } from '../flux/params.js'
import type { PixelSize } from '../plan/plan.js'
import { type Backend, portableBackend } from '../runtime/backend.js'
import { createGraph } from '../runtime/graph.js'
import type { PictureDType } from '../runtime/pictures.js'
import type { Session, SessionOptions } from '../runtime/session.js'
import { floatTensor } from '../runtime/tensor.js'
import { refuseUnused } from '../runtime/weights.js'

export type Decoder = {
  /** Scaled latents [C, H/8, W/8] → rgb bytes, H·W·3, row by row. */
  readonly decode: (latents: Float32Array, size: PixelSize) => Promise<Uint8Array>
  readonly sessions: readonly Session[]
}

/** Both directions; throws when the checkpoint does not fit its params. */
export function buildAutoencoderGraphs(
  { params, weights, source }: Component<AutoencoderParams>,
  { pictureOps }: Pick<Backend, 'pictureOps'> = portableBackend,
  dtype: PictureDType = 'F32',
) {
  const decoder = createGraph('decoder')
  addDecoder(pictureOps(decoder, dtype), params, weights)
  const encoder = createGraph('encoder')
  addEncoder(pictureOps(encoder, dtype), params, weights)
  refuseUnused(source, weights)
  return { decoder, encoder }
}

export async function loadDecoder(
  component: Component<AutoencoderParams>,
  options: SessionOptions,
  backend: Backend = portableBackend,
): Promise<Decoder> {
  const { latentChannels } = component.params
  const graph = buildAutoencoderGraphs(component, backend).decoder
  const { session } = await backend.createSessions({ session: { graph } }, options)
  return {
    async decode(latents, { width, height }) {
      const dims = [1, latentChannels, height / 8, width / 8]
      const { rgb } = await session.run({ latents: floatTensor(latents, dims) })
      return rgb!.data as Uint8Array
    },
    sessions: [session],
  }
}
