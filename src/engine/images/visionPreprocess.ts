/**
 * Resizes and normalises an image to the pixels that a vision network reads.
 * Source: transformers, CLIPImageProcessor and ViTImageProcessor with Pillow and numpy.
 */

import type { PixelSize } from '../../plan/plan.js'
import type { ImageProcessorParams } from '../checkpoint/safety.js'
import { resize } from './resample.js'

/** Normalised pixels [3, side, side] of `rgb` (H·W·3 bytes), bit-equal to the reference's. */
export function processImage(
  rgb: Uint8Array,
  size: PixelSize,
  side: number,
  params: ImageProcessorParams,
): Float32Array {
  const fitted = fitSize(size, side, params.fit)
  const resized = resize(rgb, size, fitted, params.filter)
  const left = Math.floor((fitted.width - side) / 2)
  const top = Math.floor((fitted.height - side) / 2)
  const tables = normalisedBytes(params)
  const pixels = new Float32Array(3 * side * side)
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++)
      for (let channel = 0; channel < 3; channel++) {
        const byte = resized[3 * ((top + y) * fitted.width + left + x) + channel]!
        pixels[(channel * side + y) * side + x] = tables[channel]![byte]!
      }
  return pixels
}

/** The size before cropping. */
function fitSize({ width, height }: PixelSize, side: number, fit: ImageProcessorParams['fit']) {
  if (fit.kind === 'stretch') return { width: side, height: side }
  const { edge } = fit
  return width <= height
    ? { width: edge, height: Math.trunc((edge * height) / width) }
    : { width: Math.trunc((edge * width) / height), height: edge }
}

/** The value of each byte, by channel; rounded to float32 after each step, as numpy does. */
function normalisedBytes({ rescale, mean, std }: ImageProcessorParams): Float32Array[] {
  const { fround } = Math
  return mean.map((center, channel) =>
    Float32Array.from(
      { length: 256 },
      (_, byte) => fround(fround(byte * rescale) - fround(center)) / fround(std[channel]!),
    ),
  )
}
