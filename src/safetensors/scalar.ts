/** Single values in safetensors files: the only ones that JavaScript reads itself. */
import { closeSync, openSync, readSync } from 'node:fs'
import type { TensorSlice } from './read.js'
import { elementCount, type StoredDType, storedBytes } from './tensor.js'

/** Reads values of one file's tensors; `close` gives its descriptor back. */
export type ValueReader = {
  /** Value `index` of a row-major tensor; its dtype must be one of `readableDTypes`. */
  readonly read: (slice: TensorSlice, index: number) => number
  readonly close: () => void
}

/** The one value of a tensor; nothing when it has more, or a dtype that holds no real numbers. */
export function readScalar(slice: TensorSlice): number | undefined {
  if (elementCount(slice.shape) !== 1 || !decoders[slice.dtype]) return undefined
  const reader = openValues(slice.file)
  try {
    return reader.read(slice, 0)
  } finally {
    reader.close()
  }
}

export function openValues(file: string): ValueReader {
  const descriptor = openSync(file, 'r')
  const bytes = Buffer.alloc(8)
  return {
    read({ name, dtype, offset }, index) {
      const decode = decoders[dtype]
      if (!decode) throw new RangeError(`Expected numbers in ${name} but it is ${dtype}`)
      const size = storedBytes[dtype]
      readSync(descriptor, bytes, 0, size, offset + index * size)
      return decode(bytes)
    },
    close: () => closeSync(descriptor),
  }
}

/** Whether every value of the tensor is stored as 0, plus or minus. Reads until one is not. */
export function isAllZero({ dtype, file, offset, byteLength }: TensorSlice): boolean {
  const chunk = Buffer.alloc(Math.min(byteLength, 2 ** 16))
  const isZero = isFloat(dtype) ? isZeroFloat(storedBytes[dtype]) : (byte: number) => byte === 0
  const descriptor = openSync(file, 'r')
  try {
    for (let at = 0; at < byteLength; at += chunk.length) {
      const bytes = readSync(
        descriptor,
        chunk,
        0,
        Math.min(chunk.length, byteLength - at),
        offset + at,
      )
      if (!chunk.subarray(0, bytes).every(isZero)) return false
    }
    return true
  } finally {
    closeSync(descriptor)
  }
}

const isFloat = (dtype: StoredDType) => /^(F16|BF16|F32|F64|F8_E[45]M[23])$/.test(dtype)

// Chunks begin at whole values, whose last byte begins with the sign.
const isZeroFloat = (size: number) => (byte: number, index: number) =>
  (index % size === size - 1 ? byte & 0x7f : byte) === 0

const decoders: Readonly<Partial<Record<StoredDType, (bytes: Buffer) => number>>> = {
  F64: (bytes) => bytes.readDoubleLE(),
  F32: (bytes) => bytes.readFloatLE(),
  BF16: (bytes) => Buffer.from([0, 0, bytes[0]!, bytes[1]!]).readFloatLE(),
  F16: (bytes) => halfToFloat(bytes.readUInt16LE()),
  // The upper half of a float16.
  F8_E5M2: (bytes) => halfToFloat(bytes[0]! << 8),
  F8_E4M3: (bytes) => smallFloat(bytes[0]!, { fractionBits: 3, bias: 7, nan: [0x7f, 0xff] }),
  F8_E4M3FNUZ: (bytes) => smallFloat(bytes[0]!, { fractionBits: 3, bias: 8, nan: [0x80] }),
  F8_E5M2FNUZ: (bytes) => smallFloat(bytes[0]!, { fractionBits: 2, bias: 16, nan: [0x80] }),
  F8_E8M0: (bytes) => (bytes[0] === 0xff ? Number.NaN : 2 ** (bytes[0]! - 127)),
  I64: (bytes) => Number(bytes.readBigInt64LE()),
  U64: (bytes) => Number(bytes.readBigUInt64LE()),
  I32: (bytes) => bytes.readInt32LE(),
  U32: (bytes) => bytes.readUInt32LE(),
  I16: (bytes) => bytes.readInt16LE(),
  U16: (bytes) => bytes.readUInt16LE(),
  I8: (bytes) => bytes.readInt8(),
  U8: (bytes) => bytes[0]!,
  BOOL: (bytes) => Math.sign(bytes[0]!),
}

/** The dtypes whose tensors hold one real number per whole byte or more. */
export const readableDTypes = Object.keys(decoders) as readonly StoredDType[]

type SmallFloat = {
  readonly fractionBits: number
  readonly bias: number
  readonly nan: readonly number[]
}

/** A float of 8 bits without infinities. */
function smallFloat(byte: number, { fractionBits, bias, nan }: SmallFloat): number {
  if (nan.includes(byte)) return Number.NaN
  const sign = byte & 0x80 ? -1 : 1
  const exponent = (byte & 0x7f) >> fractionBits
  const one = 2 ** fractionBits
  const fraction = byte % one
  if (exponent === 0) return (sign * fraction * 2 ** (1 - bias)) / one
  return (sign * (one + fraction) * 2 ** (exponent - bias)) / one
}

function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * 2 ** -24 * fraction
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * 2 ** (exponent - 25) * (1024 + fraction)
}
