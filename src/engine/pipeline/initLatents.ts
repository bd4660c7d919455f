/**
 * The latents that denoising starts from: noise, or an image z₀ mixed with noise,
 * x = σ·noise + (1 − σ)·z₀.
 * Source: diffusers FluxImg2ImgPipeline and FluxInpaintPipeline, with the encoder's mode for z₀.
 */

import type { PixelSize, Start } from '../../plan/plan.js'
import { readImage, readMask } from '../images/decode.js'
import type { Encoder } from '../models/vae.js'
import type { MaskBlend } from './denoise.js'
import { latentChannels, packLatents, tokenGrid } from './latents.js'

export type StartLatents = {
  /** Packed, at the noise level of the first step. */
  readonly latents: Float32Array
  readonly blend?: MaskBlend
}

/** The start of one image, from its own packed noise and the level of the first step. */
export type InitLatents = (noise: Float32Array, sigma: number) => StartLatents

/**
 * Reads and encodes the image and mask that all images of a plan start from. Throws where one of
 * them cannot be read.
 */
export async function prepareInitLatents(
  start: Start,
  size: PixelSize,
  encodeImage: Encoder['encode'],
  signal?: AbortSignal,
): Promise<InitLatents> {
  if (start.kind === 'noise') return (noise) => ({ latents: noise })
  const mask =
    start.kind === 'inpaint' ? packMask(await readMask(start.mask, size), size) : undefined
  const image = await readImage(start.image.bytes, size)
  const { tokenRows, tokenCols } = tokenGrid(size)
  const latents = packLatents(await encodeImage(image, size, signal), tokenRows, tokenCols)
  return initFromImage(latents, mask)
}

/** `imageLatents` and `mask` (1 = repaint) are packed. */
export const initFromImage =
  (imageLatents: Float32Array, mask?: Float32Array): InitLatents =>
  (noise, sigma) => ({
    latents: addNoise(imageLatents, noise, sigma),
    ...(mask && { blend: keepUnmasked(imageLatents, noise, mask) }),
  })

/** σ·noise + (1 − σ)·latents: at σ = 1 nothing of the image is left. */
function addNoise(latents: Float32Array, noise: Float32Array, sigma: number): Float32Array {
  return latents.map((value, i) => sigma * noise[i]! + (1 - sigma) * value)
}

/**
 * x ← (1 − mask)·known + mask·x, with the image at x's own noise level as `known`. It is mixed with
 * the noise that the image started from, not with its start latents (BFL's fork does that, and
 * shifts the background).
 */
function keepUnmasked(
  imageLatents: Float32Array,
  noise: Float32Array,
  mask: Float32Array,
): MaskBlend {
  return (latents, sigma) =>
    addNoise(imageLatents, noise, sigma).map(
      (known, i) => (1 - mask[i]!) * known + mask[i]! * latents[i]!,
    )
}

/** A mask [H/8, W/8] for every channel, packed as the latents are. */
export function packMask(mask: Float32Array, size: PixelSize): Float32Array {
  const { tokenRows, tokenCols } = tokenGrid(size)
  const channels = new Float32Array(latentChannels * mask.length)
  for (let channel = 0; channel < latentChannels; channel++)
    channels.set(mask, channel * mask.length)
  return packLatents(channels, tokenRows, tokenCols)
}
