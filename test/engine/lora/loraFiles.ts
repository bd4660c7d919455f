/** Writes LoRA files for tests: every tensor float32 with hashed values unless it says so. */
import { join } from 'node:path'
import { elementCount } from '../../../src/safetensors/tensor.js'
import { hashed, type Stored, temporaryFolder, writeStored } from '../../weightFiles.js'

/** A float32 number, as `.alpha` usually is. */
export const number = (value: number): Stored => ({
  dtype: 'F32',
  shape: [],
  bytes: new Uint8Array(Float32Array.of(value).buffer),
})

/** A float32 tensor of these values. */
export const values = (data: Float32Array, shape: readonly number[]): Stored => ({
  dtype: 'F32',
  shape,
  bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
})

const folder = temporaryFolder()
let written = 0

/** The path of a file with these tensors; a shape alone stands for hashed values. */
export function writeLora(
  tensors: Readonly<Record<string, readonly number[] | Stored>>,
  metadata: Readonly<Record<string, string>> = {},
): string {
  const stored = Object.entries(tensors).map(
    ([name, tensor], i) => [name, store(tensor, i)] as const,
  )
  const path = join(folder, `lora${written++}.safetensors`)
  return writeStored(path, Object.fromEntries(stored), metadata)
}

const store = (tensor: readonly number[] | Stored, i: number): Stored =>
  'bytes' in tensor ? tensor : values(hashed(i, elementCount(tensor)), tensor)

/** factor·up·down in float64; the matrices are row-major, [out, r] and [r, in]. */
export function product(up: ArrayLike<number>, down: ArrayLike<number>, rank: number, factor = 1) {
  const [rows, columns] = [up.length / rank, down.length / rank]
  return Array.from({ length: rows * columns }, (_, k) => {
    const [i, j] = [Math.floor(k / columns), k % columns]
    let sum = 0
    for (let r = 0; r < rank; r++) sum += up[i * rank + r]! * down[r * columns + j]!
    return factor * sum
  })
}
