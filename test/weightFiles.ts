/** Writes safetensors files for tests: sound ones, and ones with a chosen fault. */
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export type Shapes = Readonly<Record<string, readonly number[]>>

export const temporaryFolder = () => mkdtempSync(join(tmpdir(), 'fluxd-test-'))

/** A file of this header (any JSON value) and data. */
export function writeRaw(path: string, header: unknown, data: Uint8Array) {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  writeFileSync(path, Buffer.concat([length, json, data]))
  return path
}

export type Stored = {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** A file of these tensors, one after the other. */
export function writeStored(
  path: string,
  tensors: Readonly<Record<string, Stored>>,
  metadata: Readonly<Record<string, string>> = {},
) {
  let end = 0
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
      const begin = end
      end += bytes.length
      return [name, { dtype, shape, data_offsets: [begin, end] }]
    }),
  )
  const data = Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes))
  return writeRaw(path, { __metadata__: metadata, ...header }, data)
}

/** Float32 tensors, one after the other. */
export function writeTensors(path: string, shapes: Shapes, values: (name: string) => Float32Array) {
  let end = 0
  const parts: Buffer[] = []
  const header = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const data = values(name)
      parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
      const begin = end
      end += data.byteLength
      return [name, { dtype: 'F32', shape, data_offsets: [begin, end] }]
    }),
  )
  return writeRaw(path, header, Buffer.concat(parts))
}

/** Value i of tensor k: a hash of both in [−1, 1). F-9.1. */
export function hashed(k: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const r = Math.sin((i + 1) * 12.9898 + (k + 1) * 78.233) * 43758.5453
    return 2 * (r - Math.floor(r)) - 1
  })
}

/** The weights of F-9.1 for these tensors: scaled by what the tensor is for. */
export function hashedWeights(shapes: Shapes): (name: string) => Float32Array {
  const sorted = Object.keys(shapes).sort()
  return (name) => {
    const shape = shapes[name]!
    const raw = hashed(
      sorted.indexOf(name),
      shape.reduce((a, b) => a * b, 1),
    )
    return raw.map(scaling(name, shape))
  }
}

function scaling(name: string, shape: readonly number[]): (u: number) => number {
  if (shape.length === 1) return name.endsWith('bias') ? (u) => 0.05 * u : (u) => 1 + 0.1 * u
  if (/embed|shared|relative_attention_bias/.test(name)) return (u) => u
  const fanIn = shape.slice(1).reduce((a, b) => a * b, 1)
  const amplitude = Math.sqrt(3 / fanIn)
  return (u) => u * amplitude
}
