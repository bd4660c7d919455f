/**
 * Writes safetensors files of random bf16 tensors as fast as the disk takes them: a pool of normal
 * values is drawn once and scaled per spread; a tensor is a run of pieces of it from random places.
 */
import { closeSync, openSync, writevSync } from 'node:fs'
import type { Shapes } from './tensorShapes.js'

const poolValues = 2 ** 20
const piecesPerWrite = 64

/** Numbers in [0, 1), the same for one seed. Source: mulberry32. */
function createRandom(seed: number) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Values of N(0, 1). */
function drawNormals(random: () => number): Float32Array {
  return Float32Array.from({ length: poolValues }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()))
    return radius * Math.cos(2 * Math.PI * random())
  })
}

/** bf16 values of N(mean, spread²); rounded towards 0, which no benchmark sees. */
function scalePool(normals: Float32Array, spread: number, mean: number): Buffer {
  const float = new Float32Array(1)
  const upperHalf = new Uint16Array(float.buffer, 2, 1)
  const pool = new Uint16Array(poolValues)
  for (let i = 0; i < poolValues; i++) {
    float[0] = mean + spread * normals[i]!
    pool[i] = upperHalf[0]!
  }
  return Buffer.from(pool.buffer)
}

// Every layer keeps the size of what it is given: the spread of a weight is that of its inputs.
function spreadOf(name: string, shape: readonly number[]) {
  if (/norm|scale/.test(name) && shape.length === 1)
    return { mean: name.endsWith('bias') ? 0 : 1, spread: 0.02 }
  if (shape.length === 1) return { mean: 0, spread: 0.02 }
  if (/embedding|shared/.test(name)) return { mean: 0, spread: 1 }
  return { mean: 0, spread: 1 / Math.sqrt(shape.slice(1).reduce((a, b) => a * b, 1)) }
}

const countOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)

function headerOf(shapes: Shapes): Buffer {
  let end = 0
  const entries = [...shapes].map(([name, shape]) => {
    const begin = end
    end += 2 * countOf(shape)
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }]
  })
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  // Data starts at a multiple of 8 bytes, as in files of other writers.
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  return Buffer.concat([length, padded])
}

/** A writer of files of one seed. */
export function createRandomTensors(seed: number) {
  const random = createRandom(seed)
  const normals = drawNormals(random)
  const pools = new Map<string, Buffer>()

  function poolFor(name: string, shape: readonly number[]) {
    const { spread, mean } = spreadOf(name, shape)
    const key = `${spread} ${mean}`
    const pool = pools.get(key) ?? scalePool(normals, spread, mean)
    pools.set(key, pool)
    return pool
  }

  function writeTensor(file: number, pool: Buffer, bytes: number) {
    let pieces: Buffer[] = []
    for (let left = bytes; left > 0; ) {
      const begin = 2 * Math.floor(random() * (poolValues / 2))
      const piece = pool.subarray(begin, Math.min(begin + left, pool.length))
      pieces.push(piece)
      left -= piece.length
      if (pieces.length < piecesPerWrite && left > 0) continue
      writeAll(file, pieces)
      pieces = []
    }
  }

  /** Writes all tensors into one file. */
  function write(path: string, shapes: Shapes) {
    const file = openSync(path, 'w')
    try {
      writeAll(file, [headerOf(shapes)])
      for (const [name, shape] of shapes)
        writeTensor(file, poolFor(name, shape), 2 * countOf(shape))
    } finally {
      closeSync(file)
    }
  }

  return { write }
}

// The system may take fewer bytes than it is given.
function writeAll(file: number, buffers: readonly Buffer[]) {
  let rest = [...buffers]
  while (rest.length > 0) {
    let written = writevSync(file, rest)
    rest = rest.flatMap((buffer) => {
      const taken = Math.min(written, buffer.length)
      written -= taken
      return taken === buffer.length ? [] : [buffer.subarray(taken)]
    })
  }
}
