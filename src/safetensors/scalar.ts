/** Single numbers in safetensors files: the only values that JavaScript reads itself. */
import { closeSync, openSync, readSync } from 'node:fs'
import type { TensorSlice } from './read.js'
import { elementCount } from './tensor.js'

/** The one value of a tensor; nothing when it has more, or a dtype that holds no numbers. */
export function readScalar({ dtype, shape, file, offset, byteLength }: TensorSlice) {
  const decode = decoders[dtype]
  if (elementCount(shape) !== 1 || !decode) return undefined
  const bytes = Buffer.alloc(byteLength)
  const descriptor = openSync(file, 'r')
  try {
    readSync(descriptor, bytes, 0, byteLength, offset)
  } finally {
    closeSync(descriptor)
  }
  return decode(bytes)
}

const decoders: Readonly<Partial<Record<TensorSlice['dtype'], (bytes: Buffer) => number>>> = {
  F64: (bytes) => bytes.readDoubleLE(),
  F32: (bytes) => bytes.readFloatLE(),
  BF16: (bytes) => Buffer.from([0, 0, bytes[0]!, bytes[1]!]).readFloatLE(),
  F16: (bytes) => halfToFloat(bytes.readUInt16LE()),
  I64: (bytes) => Number(bytes.readBigInt64LE()),
  I32: (bytes) => bytes.readInt32LE(),
}

function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * 2 ** -24 * fraction
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * 2 ** (exponent - 25) * (1024 + fraction)
}
