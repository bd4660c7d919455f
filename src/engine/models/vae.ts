/** The autoencoder: pixels → latents with its encoder, latents → pixels with its decoder. */

import type { PixelSize } from '../../plan/plan.js'
import { type FloatTensor, floatTensor } from '../../safetensors/tensor.js'
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
import type { ImageDType } from '../runtime/ops/vae.js'
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
  { imageOps }: Pick<Backend, 'imageOps'> = portableBackend,
  dtype: ImageDType = 'F32',
) {
  const decoder = createGraph('decoder')
  addDecoder(imageOps(decoder, dtype), params, weights)
  const encoder = createGraph('encoder')
  addEncoder(imageOps(encoder, dtype), params, weights)
  refuseUnused(source, weights)
  return { decoder, encoder }
}

export type Encoder = {
  /** An image [3, H, W] in [−1, 1] → scaled latents [C, H/8, W/8]: the mode, nothing is sampled. */
  readonly encode: (
    image: Float32Array,
    size: PixelSize,
    signal?: AbortSignal,
  ) => Promise<Float32Array>
  readonly sessions: readonly Session[]
}

/** Loads the encoder, in float32. */
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

/** What a decoder computes in. */
export type Decoding = {
  readonly dtype: ImageDType
  /** Called when an image left the range of float16: the decoder has changed to float32. */
  readonly onOverflow?: () => void
}

/** Loads the decoder; one in float16 becomes one in float32 before it returns a broken image. */
export async function loadDecoder(
  component: Component<AutoencoderParams>,
  options: SessionOptions,
  backend: Backend = portableBackend,
  { dtype, onOverflow }: Decoding = { dtype: 'F32' },
): Promise<Decoder> {
  const { latentChannels } = component.params
  const open = async (dtype: ImageDType) => {
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

/** Runs `half` until one of its images is not finite, and the session of `openFloat` after that. */
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
