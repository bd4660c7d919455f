/**
 * How similar two images of one size are. PSNR uses every channel; SSIM compares luma in windows
 * of 11×11 pixels with Gaussian weights.
 * Source: Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural
 * Similarity", IEEE Transactions on Image Processing 13 (2004), and its ssim_index.m.
 */
import { readRgb } from '../engine/images/decode.js'

export type Similarity = {
  /** In decibels; infinite for equal images. */
  readonly psnr: number
  /** 1 for equal images. */
  readonly ssim: number
}

type Image = {
  readonly rgb: Uint8Array
  readonly size: { readonly width: number; readonly height: number }
}

/** Both measures of two encoded images. Throws when one cannot be read or their sizes differ. */
export async function compareImages(a: Uint8Array, b: Uint8Array): Promise<Similarity> {
  const [first, second] = [await readRgb('image', a), await readRgb('image', b)]
  const { width, height } = first.size
  if (second.size.width !== width || second.size.height !== height)
    throw new RangeError(
      `Expected two images of one size but they are ${width}×${height} and ` +
        `${second.size.width}×${second.size.height}`,
    )
  return { psnr: psnr(first.rgb, second.rgb), ssim: ssim(first, second) }
}

/** 10·log₁₀(255² / mean squared difference) of bytes. */
export function psnr(a: Uint8Array, b: Uint8Array): number {
  const sum = a.reduce((total, value, i) => total + (value - b[i]!) ** 2, 0)
  return 10 * Math.log10(255 ** 2 / (sum / a.length))
}

/** The mean over all windows inside the images, which must be at least 11 pixels wide and high. */
export function ssim(a: Image, b: Image): number {
  const { width, height } = a.size
  const [x, y] = [luma(a.rgb), luma(b.rgb)]
  const blurred = (values: Float64Array) => blur(values, width, height)
  const product = (p: Float64Array, q: Float64Array) => p.map((value, i) => value * q[i]!)
  const [meanX, meanY] = [blurred(x), blurred(y)]
  const [squareX, squareY, cross] = [
    blurred(product(x, x)),
    blurred(product(y, y)),
    blurred(product(x, y)),
  ]
  const sum = meanX.reduce((total, mx, i) => {
    const my = meanY[i]!
    const variances = squareX[i]! - mx * mx + (squareY[i]! - my * my)
    const covariance = cross[i]! - mx * my
    const likeness = (2 * mx * my + c1) * (2 * covariance + c2)
    return total + likeness / ((mx * mx + my * my + c1) * (variances + c2))
  }, 0)
  return sum / meanX.length
}

// The paper's constants for values up to 255.
const c1 = (0.01 * 255) ** 2
const c2 = (0.03 * 255) ** 2

const windowSide = 11
const sigma = 1.5

// ITU-R BT.601, as in MATLAB's rgb2gray.
const luma = (rgb: Uint8Array) =>
  Float64Array.from(
    { length: rgb.length / 3 },
    (_, i) => 0.299 * rgb[3 * i]! + 0.587 * rgb[3 * i + 1]! + 0.114 * rgb[3 * i + 2]!,
  )

/** Weighted means over the windows: [height − 10, width − 10]; rows first, then columns. */
function blur(values: Float64Array, width: number, height: number): Float64Array {
  const weights = gaussian()
  const [columns, rows] = [width - windowSide + 1, height - windowSide + 1]
  const across = new Float64Array(height * columns)
  for (let row = 0; row < height; row++)
    for (let column = 0; column < columns; column++)
      across[row * columns + column] = weigh(values, weights, row * width + column, 1)
  const both = new Float64Array(rows * columns)
  for (let i = 0; i < both.length; i++) both[i] = weigh(across, weights, i, columns)
  return both
}

function weigh(values: Float64Array, weights: readonly number[], start: number, stride: number) {
  let sum = 0
  for (let k = 0; k < windowSide; k++) sum += weights[k]! * values[start + k * stride]!
  return sum
}

function gaussian(): readonly number[] {
  const middle = (windowSide - 1) / 2
  const raw = Array.from({ length: windowSide }, (_, k) =>
    Math.exp(-((k - middle) ** 2) / (2 * sigma ** 2)),
  )
  const total = raw.reduce((a, b) => a + b, 0)
  return raw.map((value) => value / total)
}
