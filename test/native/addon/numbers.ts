/** Numbers as the fused operators store them, and how far results are from a float64 reference. */

/** ‖got − want‖ / ‖want‖ */
export function relativeError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length)
    throw new Error(`Expected ${want.length} values but received ${got.length}`)
  let difference = 0
  let size = 0
  for (let i = 0; i < want.length; i++) {
    difference += (got[i]! - want[i]!) ** 2
    size += want[i]! ** 2
  }
  return Math.sqrt(difference / size)
}

/** Gaussian values; the same seed gives the same values. */
export function gaussian(count: number, seed: number, spread = 1): Float32Array {
  let state = seed
  const uniform = () => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return (state + 1) / (2 ** 32 + 1)
  }
  return Float32Array.from(
    { length: count },
    () => spread * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  )
}

/** bfloat16 bits, to nearest with ties to even. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint32Array(Float32Array.from(values).buffer)
  return Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16)
}

export const fromBf16 = (bits: Uint16Array) =>
  new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer)

/** The value of an e4m3 code: 4 bits of exponent (bias 7), 3 of mantissa. */
export function fromE4m3(code: number): number {
  const sign = code & 0x80 ? -1 : 1
  const exponent = (code >> 3) & 15
  const mantissa = code & 7
  return exponent === 0 ? sign * 2 ** -9 * mantissa : sign * 2 ** (exponent - 10) * (8 + mantissa)
}

const e4m3Values = Array.from({ length: 0x7f }, (_, code) => fromE4m3(code))

/** The nearest e4m3 value of each value / scale, ties to even, where a row's scale is max / 448. */
export function quantizeRows(values: ArrayLike<number>, width: number) {
  const rows = values.length / width
  const scales = Float32Array.from({ length: rows }, (_, r) => {
    const row = Array.from({ length: width }, (_, i) => Math.abs(values[r * width + i]!))
    return Math.max(...row) / 448 || 1
  })
  const codes = Uint8Array.from({ length: values.length }, (_, i) => {
    const value = Math.fround(values[i]! / scales[Math.floor(i / width)]!)
    return nearestE4m3(Math.abs(value)) | (value < 0 ? 0x80 : 0)
  })
  return { codes, scales }
}

function nearestE4m3(magnitude: number): number {
  let best = 0
  e4m3Values.forEach((value, code) => {
    const [distance, shortest] = [
      Math.abs(value - magnitude),
      Math.abs(e4m3Values[best]! - magnitude),
    ]
    if (distance < shortest || (distance === shortest && code % 2 === 0)) best = code
  })
  return best
}
