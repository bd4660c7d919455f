/**
 * Lanczos resampling as Pillow does it, to the last bit: when a side shrinks the window grows with
 * the scale; weights are integers of 22 fractional bits; rows first, bytes in between.
 * libvips (sharp) would be faster, but stretches by another filter, and its pixels differ.
 * Source: Pillow, Image.resize with LANCZOS.
 */
import type { PixelSize } from '../plan/plan.js'

const lobes = 3
const fractionBits = 22

/** The picture `rgb` (H·W·3 bytes) stretched to another size. */
export function resizeLanczos(rgb: Uint8Array, from: PixelSize, to: PixelSize): Uint8Array {
  const rows = resampleAxis(rgb, from.width, to.width, 3)
  return resampleAxis(rows, from.height, to.height, 3 * to.width)
}

/** Bytes [outer, from, inner] → [outer, to, inner]. */
function resampleAxis(source: Uint8Array, from: number, to: number, inner: number): Uint8Array {
  if (from === to) return source
  const outer = source.length / (from * inner)
  const target = new Uint8ClampedArray(outer * to * inner)
  const windows = Array.from({ length: to }, (_, i) => createWindow(i, from, to))
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

/** Where the source values of target `index` begin, and what each counts; the weights add up to 2^22. */
function createWindow(index: number, from: number, to: number) {
  const scale = from / to
  const stretch = Math.max(scale, 1)
  const center = (index + 0.5) * scale
  const start = Math.max(Math.trunc(center - lobes * stretch + 0.5), 0)
  const end = Math.min(Math.trunc(center + lobes * stretch + 0.5), from)
  const raw = Array.from({ length: end - start }, (_, tap) =>
    lanczos((start + tap - center + 0.5) * (1 / stretch)),
  )
  const sum = raw.reduce((total, weight) => total + weight, 0)
  const weights = Int32Array.from(raw, (weight) => roundAway((weight / sum) * 2 ** fractionBits))
  return { start, weights }
}

const lanczos = (x: number) => (x >= -lobes && x < lobes ? sinc(x) * sinc(x / lobes) : 0)
const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI))
const roundAway = (value: number) => Math.trunc(value + (value < 0 ? -0.5 : 0.5))
