/** float8_e4m3fn in JavaScript: 1 sign, 4 exponent bits with bias 7, 3 fraction bits, no infinity. */

/** The value of a code; 0x7f and 0xff are NaN. */
export function fromE4m3(code: number): number {
  const sign = code & 0x80 ? -1 : 1
  const exponent = (code >> 3) & 0xf
  const fraction = code & 7
  if (exponent === 15 && fraction === 7) return Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** -9
  return sign * (8 + fraction) * 2 ** (exponent - 10)
}

// Codes of a sign count upwards with their magnitudes.
const magnitudes = Array.from({ length: 127 }, (_, code) => fromE4m3(code))

/** The code nearest to x, of two equally near ones the even one; beyond 448 it is that of 448. */
export function toE4m3(x: number): number {
  if (Number.isNaN(x)) return 0x7f
  const sign = x < 0 || Object.is(x, -0) ? 0x80 : 0
  const size = Math.abs(x)
  const above = magnitudes.findIndex((magnitude) => magnitude >= size)
  if (above === -1) return sign | 0x7e
  if (above === 0) return sign
  const below = above - 1
  const [down, up] = [size - magnitudes[below]!, magnitudes[above]! - size]
  const isLower = down < up || (down === up && below % 2 === 0)
  return sign | (isLower ? below : above)
}

/** Rows of D values, each rounded with a scale of its own; every operation rounds to float32. */
export function roundRows(values: Float32Array, width: number): Float32Array {
  const rounded = new Float32Array(values.length)
  for (let start = 0; start < values.length; start += width) {
    const row = values.subarray(start, start + width)
    const amax = row.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
    const scale = Math.fround(Math.max(amax, Math.fround(1e-30)) / 448)
    row.forEach((value, i) => {
      rounded[start + i] = Math.fround(fromE4m3(toE4m3(Math.fround(value / scale))) * scale)
    })
  }
  return rounded
}
