/** Estimates the device memory of a run, without the weights, from the networks' shapes. */
import type { PixelSize } from '../../plan/plan.js'
import type { AutoencoderParams, FluxParams } from '../flux/params.js'
import { hiddenSize, mlpHidden } from '../flux/params.js'
import { tokenGrid } from '../pipeline/latents.js'
import type { MemoryEstimate } from '../protocol.js'

/** The networks of the denoising loop. */
export type Shapes = {
  readonly transformer: FluxParams
  readonly autoencoder: AutoencoderParams
  readonly textTokens: number
}

/** `runBytesOf` as two numbers, for a worker that has no shapes: it is linear in the pixels. */
export function linearRunBytes(
  shapes: Shapes,
): Pick<MemoryEstimate, 'baseBytes' | 'bytesPerPixel'> {
  const baseBytes = runBytesOf(shapes, { width: 0, height: 0 })
  const side = 1024
  const bytesPerPixel = (runBytesOf(shapes, { width: side, height: side }) - baseBytes) / side ** 2
  return { baseBytes, bytesPerPixel }
}

// Steps compute in bfloat16 where memory is scarce.
const valueBytes = 2

/** The bytes of a run for one image size: a step's activations, and the decoder's. */
export function runBytesOf({ transformer, autoencoder, textTokens }: Shapes, size: PixelSize) {
  const { tokenRows, tokenCols } = tokenGrid(size)
  return (
    stepBytes(transformer, textTokens + tokenRows * tokenCols, valueBytes) +
    autoencoderBytes(autoencoder, size)
  )
}

/**
 * The bytes of a step's activations at their peak, inside a single block: the stream, its norm, the
 * fused qkv, q, k and v, the attention's result, the feed-forward layer and both side by side.
 */
export function stepBytes(params: FluxParams, tokens: number, bytesPerValue: number): number {
  const width = hiddenSize(params)
  const hidden = mlpHidden(params)
  return (
    tokens * bytesPerValue * (2 * width + 3 * width + 3 * width + width + hidden + width + hidden)
  )
}

/**
 * The bytes of the autoencoder's activations at their peak, in float32: four maps of an
 * image's full size before its last block narrows them. 531 MB for the embedded model at 1440²;
 * 599 MB were measured.
 */
export const autoencoderBytes = (
  { channels }: AutoencoderParams,
  { width, height }: PixelSize,
): number => 4 * 4 * width * height * (channels[1] ?? channels[0]!)
