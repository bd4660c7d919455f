/**
 * The normal numbers of torch.randn on a CUDA device, float32, from a fresh generator:
 * Philox4x32-10 with key = seed and counter (call, 0, thread, 0), made normal by Box–Muller.
 * Source: ATen/native/cuda/DistributionTemplates.h, curand_philox4x32_x.h and curand_normal.h.
 * The device's approximate sine and cosine (__sincosf) differ from ours by about 1e-6.
 */

/** Threads per block, and blocks of the grid on an H100: 132 multiprocessors of 2048 threads. */
const blockSize = 256
const maxBlocks = 132 * 8

const rounds = 10
const multiplier0 = 0xd2511f53
const multiplier1 = 0xcd9e8d57
const keyStep0 = 0x9e3779b9
const keyStep1 = 0xbb67ae85

const toUnit = 2 ** -32
const toAngle = Math.fround(Math.fround(2 ** -32) * Math.fround(2 * Math.PI))

/**
 * `count` values; `seed` is a 64-bit integer, a negative one in two's complement.
 * The grid decides which thread makes which value: from the smaller grid's 256·blocks-th value on,
 * devices with another number of blocks give others. An image of 1024² has 262,144 values.
 */
export function philoxNormal(
  count: number,
  seed: number | bigint,
  blocks = maxBlocks,
): Float32Array {
  const bits = BigInt.asUintN(64, BigInt(seed))
  const [low, high] = [Number(bits & 0xffffffffn) | 0, Number(bits >> 32n) | 0]
  const values = new Float32Array(count)
  const threads = blockSize * Math.min(Math.ceil(count / blockSize), blocks)
  const random = new Uint32Array(4)
  for (let call = 0, first = 0; first < count; call++, first += 4 * threads) {
    for (let thread = 0; thread < threads && first + thread < count; thread++) {
      philox(random, call, thread, low, high)
      const at = first + thread
      writePair(values, at, threads, random[0]!, random[1]!)
      if (at + 2 * threads < count)
        writePair(values, at + 2 * threads, threads, random[2]!, random[3]!)
    }
  }
  return values
}

/** Four random words; a round is (hi(M1·c2)^c1^k0, lo(M1·c2), hi(M0·c0)^c3^k1, lo(M0·c0)). */
function philox(random: Uint32Array, call: number, thread: number, low: number, high: number) {
  let key0 = low
  let key1 = high
  let c0 = call
  let c1 = 0
  let c2 = thread
  let c3 = 0
  for (let round = 0; round < rounds; round++) {
    const high0 = multiplyHigh(multiplier0, c0)
    const low0 = Math.imul(multiplier0, c0)
    const high1 = multiplyHigh(multiplier1, c2)
    const low1 = Math.imul(multiplier1, c2)
    c0 = high1 ^ c1 ^ key0
    c1 = low1
    c2 = high0 ^ c3 ^ key1
    c3 = low0
    key0 = (key0 + keyStep0) | 0
    key1 = (key1 + keyStep1) | 0
  }
  random[0] = c0
  random[1] = c1
  random[2] = c2
  random[3] = c3
}

/** The upper 32 bits of a·b, from 16-bit halves: every product and sum below is exact. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  return (aHigh * bHigh + (middle >>> 16) + ((aLow * bHigh + (middle & 0xffff)) >>> 16)) | 0
}

/** Box–Muller in float32, sine first: values[at], and values[at + stride] if it is in the array. */
function writePair(values: Float32Array, at: number, stride: number, x: number, y: number) {
  const uniform = Math.fround(Math.fround(x) * toUnit + toUnit / 2)
  const angle = Math.fround(Math.fround(y) * toAngle + toAngle / 2)
  const radius = Math.sqrt(-2 * Math.log(uniform))
  values[at] = radius * Math.sin(angle)
  if (at + stride < values.length) values[at + stride] = radius * Math.cos(angle)
}
