/** Encodes images as files: rgb bytes → webp, jpg or png. */
import sharp from 'sharp'
import type { GenerationPlan, OutputFormat, PixelSize } from '../../plan/plan.js'
import type { EncodedImage } from '../protocol.js'

export const mimeTypes: Readonly<Record<OutputFormat, string>> = {
  webp: 'image/webp',
  jpg: 'image/jpeg',
  png: 'image/png',
}

/**
 * One image as a file without metadata. `rgb` is H·W·3 bytes, row by row.
 * Quality 0 is legal in the contract but not in sharp, which starts at 1; png has no quality.
 * webp effort 4 and 4:2:0 jpeg are what the reference's encoder writes.
 */
export async function encodeImage(
  rgb: Uint8Array,
  { width, height }: PixelSize,
  { format, quality }: GenerationPlan['output'],
): Promise<EncodedImage> {
  const image = sharp(rgb, { raw: { width, height, channels: 3 } })
  const level = Math.max(1, quality)
  const encoded =
    format === 'png'
      ? image.png()
      : format === 'jpg'
        ? image.jpeg({ quality: level })
        : image.webp({ quality: level, effort: 4 })
  return { bytes: await encoded.toBuffer(), mimeType: mimeTypes[format] }
}
