/** What runs take of a device's memory beside the weights, estimated from the networks' shapes. */
import type { PixelSize } from '../../plan/plan.js'
import type { AutoencoderParams, FluxParams } from '../flux/params.js'
import { hiddenSize, mlpHidden } from '../flux/params.js'
import { tokenGrid } from '../pipeline/latents.js'
import type { MemoryEstimate } from '../protocol.js'

/** The networks that draw. */
export type Shapes = {
  readonly transformer: FluxParams
  readonly autoencoder: AutoencoderParams
  readonly textTokens: number
}

/** The bytes of a run as numbers that a worker can add up: `drawBytes` is linear in the pixels. */
export function linearDrawBytes(
  shapes: Shapes,
): Pick<MemoryEstimate, 'baseBytes' | 'bytesPerPixel'> {
  const baseBytes = drawBytes(shapes, { width: 0, height: 0 })
  const side = 1024
  const bytesPerPixel = (drawBytes(shapes, { width: side, height: side }) - baseBytes) / side ** 2
  return { baseBytes, bytesPerPixel }
}

// Steps compute in bfloat16 where memory is scarce.
const valueBytes = 2

/** The bytes of drawing a picture beside the weights: what the step's run keeps, and the decoder's. */
export function drawBytes({ transformer, autoencoder, textTokens }: Shapes, size: PixelSize) {
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
 * The bytes of the autoencoder's activations at their peak, in float32: four maps of a picture's full
 * size before its last block narrows them. The embedded model at 1440² was seen to take 599 MB, of
 * which this says 531.
 */
export const autoencoderBytes = (
  { channels }: AutoencoderParams,
  { width, height }: PixelSize,
): number => 4 * 4 * width * height * (channels[1] ?? channels[0]!)
