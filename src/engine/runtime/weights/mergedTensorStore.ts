/**
 * Where merged tensors are kept between the merge and the sessions that use them. A model's bytes
 * hold less than 2 GiB, so large sets go into a file, which sessions map like a checkpoint.
 */
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { FluxdError } from '../../../errors.js'
import { type FloatTensor, storedBytes } from '../../../safetensors/tensor.js'
import type { TensorInMemory, TensorSource } from './weights.js'

export type TensorStore = {
  /** Where the values are kept. Those for `BF16` must be values that bfloat16 can hold. */
  readonly keep: (name: string, tensor: FloatTensor, dtype: TensorInMemory['dtype']) => TensorSource
  /** Frees memory or disk. Existing sessions are not affected. */
  readonly release: () => void
}

/** The tensor as a graph's weight, in memory. */
export function inMemory(
  name: string,
  { data, dims }: FloatTensor,
  dtype: TensorInMemory['dtype'] = 'F32',
): TensorInMemory {
  return { name, dtype, shape: dims, values: dtype === 'F32' ? data : upperHalves(data) }
}

export const createMemoryStore = (): TensorStore => ({ keep: inMemory, release: () => {} })

/**
 * A store in a new file below `folder`, which need not exist, for `bytes` of tensors.
 * Throws `engine_failed` when the disk has less.
 */
export function createFileStore(folder: string, bytes: number): TensorStore {
  mkdirSync(folder, { recursive: true })
  checkSpace(folder, bytes)
  const own = mkdtempSync(join(folder, 'fluxd-merged-'))
  const file = join(own, 'tensors')
  const descriptor = openSync(file, 'wx', 0o600)
  let end = 0
  return {
    keep(name, tensor, dtype) {
      const { values, shape } = inMemory(name, tensor, dtype)
      const offset = Math.ceil(end / alignment) * alignment
      end = offset + values.byteLength
      writeAll(descriptor, values, offset)
      return { name, file, dtype, shape, offset, byteLength: values.byteLength }
    },
    release() {
      closeSync(descriptor)
      // Mapped pages outlive the name of their file.
      rmSync(own, { recursive: true })
    },
  }
}

/** Bytes that a tensor of this many values fills in a store. */
export const keptBytes = (values: number, dtype: TensorInMemory['dtype']) =>
  values * storedBytes[dtype] + alignment

// A cache line, so that mapped values are aligned for every instruction.
const alignment = 64

function checkSpace(folder: string, bytes: number) {
  const { bavail, bsize } = statfsSync(folder)
  if (bavail * bsize < bytes)
    throw new FluxdError(
      'engine_failed',
      `Expected ${bytes} free bytes in ${folder} for merged weights ` +
        `but there are ${bavail * bsize}`,
    )
}

function writeAll(descriptor: number, values: NodeJS.ArrayBufferView, offset: number) {
  for (let done = 0; done < values.byteLength; )
    done += writeSync(descriptor, values, done, values.byteLength - done, offset + done)
}

/** The bits of bfloat16 are the upper half of a float32's. */
function upperHalves({ buffer, byteOffset, length }: Float32Array): Uint16Array {
  const words = new Uint16Array(buffer, byteOffset, 2 * length)
  const upper = new Uint16Array(length)
  for (let i = 0; i < length; i++) upper[i] = words[2 * i + 1]!
  return upper
}
