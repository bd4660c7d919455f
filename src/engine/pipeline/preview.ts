/**
 * A preview of an image, from the latents of a step: flow matching's velocity v is noise − image,
 * so the image is about x − σ·v. It is averaged over blocks of latents and decoded by the model's
 * own decoder, in a fraction of the time of a whole image.
 */

import type { PixelSize } from '../../plan/plan.js'
import { encodeImage } from '../images/encode.js'
import type { Decoder } from '../models/vae.js'
import type { EncodedImage } from '../protocol.js'
import { latentChannels, tokenGrid, unpackLatents } from './latents.js'

export type Step = {
  /** Packed, at noise level `sigma`; `velocity` led there. */
  readonly latents: Float32Array
  readonly velocity: Float32Array
  readonly sigma: number
}

// Of the longer side; 32 latents are 256 pixels, 1/16 of the work for an image of 1024×1024.
const maxLatents = 32
const output = { format: 'webp', quality: 60 } as const

/** The preview as a webp of at most 256 pixels a side. `size` is that of the image. */
export async function makePreview(
  { latents, velocity, sigma }: Step,
  size: PixelSize,
  decoder: Pick<Decoder, 'decode'>,
  signal?: AbortSignal,
): Promise<EncodedImage> {
  const { tokenRows, tokenCols } = tokenGrid(size)
  const estimate = latents.map((value, i) => value - sigma * velocity[i]!)
  const whole = { rows: 2 * tokenRows, cols: 2 * tokenCols }
  const block = Math.ceil(Math.max(whole.rows, whole.cols) / maxLatents)
  const { rows, cols, values } = averageBlocks(
    unpackLatents(estimate, tokenRows, tokenCols),
    whole,
    block,
  )
  const small = { width: 8 * cols, height: 8 * rows }
  return encodeImage(await decoder.decode(values, small, signal), small, output)
}

type Grid = { readonly rows: number; readonly cols: number }

/** Means of `block`×`block` latents [C, rows, cols]; incomplete blocks at the edges are cut off. */
export function averageBlocks(latents: Float32Array, { rows, cols }: Grid, block: number) {
  const small = { rows: Math.floor(rows / block), cols: Math.floor(cols / block) }
  const values = new Float32Array(latentChannels * small.rows * small.cols)
  let at = 0
  for (let channel = 0; channel < latentChannels; channel++)
    for (let row = 0; row < small.rows; row++)
      for (let col = 0; col < small.cols; col++) {
        let sum = 0
        for (let y = 0; y < block; y++)
          for (let x = 0; x < block; x++)
            sum += latents[(channel * rows + row * block + y) * cols + col * block + x]!
        values[at++] = sum / (block * block)
      }
  return { ...small, values }
}
