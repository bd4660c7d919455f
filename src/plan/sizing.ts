/**
 * Sizes of images in pixels: eleven named shapes at about one megapixel, each halved for "0.25",
 * and `custom`; with an image, the image's own size. All are multiples of 16, the side of a token.
 * Source: cog-flux predict.py, ASPECT_RATIOS and make_multiple_of_16; diffusers_predictor.py.
 */
import type { AspectRatio, Megapixels } from '../contract/input.js'
import { invalidInput } from '../errors.js'
import type { PixelSize } from './plan.js'

const sizes: Readonly<Record<Exclude<AspectRatio, 'custom'>, PixelSize>> = {
  '1:1': { width: 1024, height: 1024 },
  '16:9': { width: 1344, height: 768 },
  '21:9': { width: 1536, height: 640 },
  '3:2': { width: 1216, height: 832 },
  '2:3': { width: 832, height: 1216 },
  '4:5': { width: 896, height: 1088 },
  '5:4': { width: 1088, height: 896 },
  '3:4': { width: 896, height: 1152 },
  '4:3': { width: 1152, height: 896 },
  '9:16': { width: 768, height: 1344 },
  '9:21': { width: 640, height: 1536 },
}

const maxImageSide = 1440

export type SizeInput = {
  readonly aspect_ratio: AspectRatio
  readonly megapixels: Megapixels
  readonly width?: number | undefined
  readonly height?: number | undefined
}

/**
 * The size of the image. `width` and `height` count for `custom` only, where `megapixels` does
 * not; they are rounded up, as the reference does, though their description says "nearest".
 * Throws when `custom` lacks one of them.
 */
export function chooseSize(input: SizeInput): PixelSize {
  if (input.aspect_ratio === 'custom') return customSize(input)
  const { width, height } = sizes[input.aspect_ratio]
  return input.megapixels === '1' ? { width, height } : { width: width / 2, height: height / 2 }
}

function customSize({ width, height }: SizeInput): PixelSize {
  if (width === undefined || height === undefined)
    throw invalidInput("width and height must be defined if aspect ratio is 'custom'")
  return { width: roundUpTo16(width), height: roundUpTo16(height) }
}

/**
 * The size of an image made from an image: the image's, scaled down to sides of at most 1440 and
 * then rounded up, so that it is stretched by up to 15 pixels. Small images are not enlarged.
 */
export function fitImage({ width, height }: PixelSize): PixelSize {
  const scale = Math.min(maxImageSide / width, maxImageSide / height, 1)
  const fitted = {
    width: roundUpTo16(Math.trunc(width * scale)),
    height: roundUpTo16(Math.trunc(height * scale)),
  }
  if (fitted.width > 0 && fitted.height > 0) return fitted
  throw invalidInput(
    `Expected an image whose sides differ by a factor below ${maxImageSide} but received ` +
      `${width}x${height}`,
  )
}

const roundUpTo16 = (pixels: number) => Math.ceil(pixels / 16) * 16
