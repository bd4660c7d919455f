/** What runs take of a device's memory beside the weights, estimated from the networks' shapes. */

import type { GenerationPlan, PixelSize, Precision } from '../../plan/plan.js'
import type { AutoencoderParams, FluxParams } from '../flux/params.js'
import { hiddenSize, mlpHidden } from '../flux/params.js'
import { tokenGrid } from '../pipeline/latents.js'
import { createBudget, type Resident } from './memoryBudget.js'

/** The networks that draw. */
export type Shapes = {
  readonly transformer: FluxParams
  readonly autoencoder: AutoencoderParams
  readonly textTokens: number
}

/** What drawing needs and what there is, as plain data. */
export type DrawSizes = {
  readonly capacity: number
  readonly shapes: Shapes
  readonly parts: Readonly<Record<Precision, readonly Resident[]>>
  /** Where one is installed. */
  readonly checker: Resident | undefined
}

/** Throws `not_supported`, with the numbers, where not even an empty device has room for the plan. */
export function expectRoom(
  { capacity, shapes, parts, checker }: DrawSizes,
  { precision, size, checkSafety }: Pick<GenerationPlan, 'precision' | 'size' | 'checkSafety'>,
): void {
  const own = checkSafety && checker ? [...parts[precision], checker] : parts[precision]
  createBudget(capacity).admit({ parts: own, runBytes: drawBytes(shapes, size) })
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
