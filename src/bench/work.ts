/** The least work of a denoising step, from the network's shape: arithmetic and transfers. */
import { type FluxParams, hiddenSize, mlpHidden } from '../engine/flux/params.js'
import type { PixelSize } from '../plan/plan.js'

export type StepWork = {
  /** Operations of matrix products with weights; a multiplication and an addition count as two. */
  readonly linear: number
  /** Those of q·kᵀ and of the product with v. */
  readonly attention: number
  /** Weights of those products, each read once. */
  readonly weights: number
  /** Values that products and attention read and write, each once. */
  readonly values: number
}

/** Image tokens, of 16×16 pixels each. */
export const imageTokens = ({ width, height }: PixelSize) => (width / 16) * (height / 16)

/**
 * The work of one step at batch 1. With D hidden values, M of a feed-forward layer and S tokens, a
 * block has 4·D² + 2·D·M weights for each token and 4·D·S² operations of attention.
 */
export function stepWork(params: FluxParams, textTokens: number, size: PixelSize): StepWork {
  const [width, wide, image] = [hiddenSize(params), mlpHidden(params), imageTokens(size)]
  const { doubleBlocks, singleBlocks, inChannels } = params
  const tokens = textTokens + image
  const blocks = doubleBlocks + singleBlocks
  const block = 4 * width ** 2 + 2 * width * wide
  // One layer for the latents, one for the velocities.
  const border = 2 * inChannels * width
  return {
    linear: 2 * (blocks * block * tokens + border * image),
    attention: 4 * blocks * width * tokens ** 2,
    // Text and image have weights of their own in a double block.
    weights: (2 * doubleBlocks + singleBlocks) * block + border,
    values: blocks * tokens * (12 * width + 2 * wide),
  }
}
