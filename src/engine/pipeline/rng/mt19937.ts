/**
 * The normal numbers of torch.randn on the CPU, float32: mt19937, made normal by Box–Muller in
 * blocks of 16. Source: ATen/native/cpu/DistributionTemplates.h (normal_fill), ATen/core/
 * MT19937RNGEngine.h and, below 16 values, DistributionsHelper.h (normal_distribution<double>).
 * torch's AVX2 approximations of log, sin and cos differ from ours by up to 2e-6.
 */

const stateSize = 624
const shift = 397
const twoPi = Math.fround(2 * Math.PI)

/** `count` values; of `seed` only the low 32 bits count, a negative one in two's complement. */
export function mersenneNormal(count: number, seed: number | bigint): Float32Array {
  const random = createMersenne(Number(BigInt.asUintN(32, BigInt(seed))))
  return count < 16 ? generatePairs(count, random) : generateBlocks(count, random)
}

/** One word per value. An incomplete last block regenerates the last 16 values. */
function generateBlocks(count: number, random: () => number): Float32Array {
  const values = new Float32Array(count)
  const fill = (from: number) => {
    for (let i = from; i < count; i++) values[i] = (random() & 0xffffff) * 2 ** -24
  }
  fill(0)
  for (let start = 0; start + 16 <= count; start += 16) makeNormal(values, start)
  if (count % 16 !== 0) {
    fill(count - 16)
    makeNormal(values, count - 16)
  }
  return values
}

/** 16 uniform values in [0, 1), in place: value j and j + 8 become radius times cosine and sine. */
function makeNormal(values: Float32Array, start: number) {
  for (let i = start; i < start + 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - values[i]!))
    const angle = Math.fround(twoPi * values[i + 8]!)
    values[i] = radius * Math.cos(angle)
    values[i + 8] = radius * Math.sin(angle)
  }
}

/** In float64 from 53-bit uniform values, cosine first. */
function generatePairs(count: number, random: () => number): Float32Array {
  const values = new Float32Array(count)
  const uniform = () => ((random() & 0x1fffff) * 2 ** 32 + random()) * 2 ** -53
  for (let i = 0; i < count; i += 2) {
    const angle = 2 * Math.PI * uniform()
    const radius = Math.sqrt(-2 * Math.log1p(-uniform()))
    values[i] = radius * Math.cos(angle)
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle)
  }
  return values
}

/** The words of mt19937, seeded by init_genrand. */
function createMersenne(seed: number): () => number {
  const state = new Uint32Array(stateSize)
  state[0] = seed
  for (let i = 1; i < stateSize; i++) {
    const previous = state[i - 1]!
    state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i
  }
  let next = stateSize
  return () => {
    if (next === stateSize) {
      regenerate(state)
      next = 0
    }
    return temper(state[next++]!)
  }
}

function regenerate(state: Uint32Array) {
  for (let i = 0; i < stateSize; i++) {
    const joined = (state[i]! & 0x80000000) | (state[(i + 1) % stateSize]! & 0x7fffffff)
    state[i] = state[(i + shift) % stateSize]! ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0)
  }
}

function temper(word: number): number {
  let y = word ^ (word >>> 11)
  y ^= (y << 7) & 0x9d2c5680
  y ^= (y << 15) & 0xefc60000
  return (y ^ (y >>> 18)) >>> 0
}
