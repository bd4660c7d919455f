/**
 * Resampling as Pillow does it, to the last bit: when a side shrinks the window grows with the
 * scale; weights are integers of 22 fractional bits; rows first, bytes in between.
 * libvips (sharp) would be faster, but stretches by other filters, and its pixels differ.
 * Source: Pillow, Image.resize with LANCZOS, BICUBIC (a = −0.5) and BILINEAR.
 */
import type { PixelSize } from '../../plan/plan.js'

export type Filter = keyof typeof filters

type Kernel = { readonly support: number; readonly weigh: (x: number) => number }

const fractionBits = 22

/** The image `rgb` (H·W·3 bytes) stretched to another size. */
export function resize(
  rgb: Uint8Array,
  from: PixelSize,
  to: PixelSize,
  filter: Filter,
): Uint8Array {
  const kernel = filters[filter]
  const rows = resampleAxis(rgb, kernel, from.width, to.width, 3)
  return resampleAxis(rows, kernel, from.height, to.height, 3 * to.width)
}

/** Bytes [outer, from, inner] → [outer, to, inner]. */
function resampleAxis(
  source: Uint8Array,
  kernel: Kernel,
  from: number,
  to: number,
  inner: number,
): Uint8Array {
  if (from === to) return source
  const outer = source.length / (from * inner)
  const target = new Uint8ClampedArray(outer * to * inner)
  const windows = Array.from({ length: to }, (_, i) => createWindow(kernel, i, from, to))
  // 255 · Σ|weight| stays below 2^31. Tap by tap, so that long rows are read in order.
  const sums = new Int32Array(inner)
  let at = 0
  for (let o = 0; o < outer; o++)
    for (const { start, weights } of windows) {
      sums.fill(1 << (fractionBits - 1))
      let k = (o * from + start) * inner
      for (let tap = 0; tap < weights.length; tap++) {
        const weight = weights[tap]!
        for (let i = 0; i < inner; i++) sums[i]! += source[k++]! * weight
      }
      for (let i = 0; i < inner; i++) target[at++] = sums[i]! >> fractionBits
    }
  return new Uint8Array(target.buffer)
}

/** The first source value of target `index`, and the weights, which add up to 2^22. */
function createWindow({ support, weigh }: Kernel, index: number, from: number, to: number) {
  const scale = from / to
  const stretch = Math.max(scale, 1)
  const center = (index + 0.5) * scale
  const start = Math.max(Math.trunc(center - support * stretch + 0.5), 0)
  const end = Math.min(Math.trunc(center + support * stretch + 0.5), from)
  const raw = Array.from({ length: end - start }, (_, tap) =>
    weigh((start + tap - center + 0.5) * (1 / stretch)),
  )
  const sum = raw.reduce((total, weight) => total + weight, 0)
  const weights = Int32Array.from(raw, (weight) => roundAway((weight / sum) * 2 ** fractionBits))
  return { start, weights }
}

const lanczos = (x: number) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)
const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI))
const roundAway = (value: number) => Math.trunc(value + (value < 0 ? -0.5 : 0.5))

// The cubic of Keys with a = −0.5, in Pillow's order of operations.
function bicubic(x: number): number {
  const [t, a] = [Math.abs(x), -0.5]
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0
}

const bilinear = (x: number) => Math.max(1 - Math.abs(x), 0)

const filters = {
  lanczos: { support: 3, weigh: lanczos },
  bicubic: { support: 2, weigh: bicubic },
  bilinear: { support: 1, weigh: bilinear },
} as const satisfies Readonly<Record<string, Kernel>>
