/** The autoencoder's way out: latents → pixels. */

import type { PixelSize } from '../../plan/plan.js'
import { floatTensor } from '../../safetensors/tensor.js'
import type { Component } from '../checkpoint/checkpoint.js'
import { addDecoder, addEncoder } from '../flux/autoencoder.js'
import type { AutoencoderParams } from '../flux/params.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import {
  createRunnable,
  type RunOptions,
  type Session,
  type SessionOptions,
  type Tensors,
} from '../runtime/backends/ort/session.js'
import { createGraph } from '../runtime/onnx/graph.js'
import type { PictureDType } from '../runtime/ops/vae.js'
import { refuseUnused } from '../runtime/weights/weights.js'

export type Decoder = {
  /** Scaled latents [C, H/8, W/8] → rgb bytes, H·W·3, row by row. */
  readonly decode: (
    latents: Float32Array,
    size: PixelSize,
    signal?: AbortSignal,
  ) => Promise<Uint8Array>
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

/** What a decoder computes in. */
export type Decoding = {
  readonly dtype: PictureDType
  /** A picture has left the range of float16: there will be no other in it. */
  readonly onOverflow?: () => void
}

/** The decoder; one in float16 is replaced by one in float32 before it returns a broken picture. */
export async function loadDecoder(
  component: Component<AutoencoderParams>,
  options: SessionOptions,
  backend: Backend = portableBackend,
  { dtype, onOverflow }: Decoding = { dtype: 'F32' },
): Promise<Decoder> {
  const { latentChannels } = component.params
  const open = async (dtype: PictureDType) => {
    const graph = buildAutoencoderGraphs(component, backend, dtype).decoder
    return (await backend.createSessions({ session: { graph } }, options)).session
  }
  const first = await open(dtype)
  const session = dtype === 'F16' ? replacedOnOverflow(first, () => open('F32'), onOverflow) : first
  return {
    async decode(latents, { width, height }, signal) {
      const dims = [1, latentChannels, height / 8, width / 8]
      const { rgb } = await session.run({ latents: floatTensor(latents, dims) }, { signal })
      return rgb!.data as Uint8Array
    },
    sessions: [session],
  }
}

/** `half` until one of its pictures is not made of numbers; `openFloat` from that one on. */
function replacedOnOverflow(
  half: Session,
  openFloat: () => Promise<Session>,
  onOverflow?: () => void,
): Session {
  let current = half
  async function run(inputs: Tensors, options?: RunOptions) {
    const results = await current.run(inputs, options)
    if (current !== half || Number.isFinite(results['brightness']!.data[0])) return results
    current = await openFloat()
    onOverflow?.()
    await half.release()
    return current.run(inputs, options)
  }
  return {
    ...createRunnable(run),
    busySeconds: () => half.busySeconds() + (current === half ? 0 : current.busySeconds()),
    release: () => current.release(),
  }
}
