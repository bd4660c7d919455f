/** Dense values at a graph's border, and the dtypes weights are stored in. */

/** A float32 tensor in JavaScript memory, row-major. */
export type FloatTensor = {
  readonly dtype: 'float32'
  readonly dims: readonly number[]
  readonly data: Float32Array
}

export type IntTensor = {
  readonly dtype: 'int32'
  readonly dims: readonly number[]
  readonly data: Int32Array
}

export type ByteTensor = {
  readonly dtype: 'uint8'
  readonly dims: readonly number[]
  readonly data: Uint8Array
}

export type Tensor = FloatTensor | IntTensor | ByteTensor

/** Bytes per value of every dtype that a safetensors file may hold; small floats are packed. */
export const storedBytes = {
  F4: 0.5,
  F6_E2M3: 0.75,
  F6_E3M2: 0.75,
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2: 1,
  F8_E5M2FNUZ: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
  C64: 8,
} as const

export type StoredDType = keyof typeof storedBytes

/** How many values a tensor of these dims holds; 1 for a scalar. */
export const elementCount = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

/** A float32 tensor over `data`; throws when the dims do not multiply to its length. */
export function floatTensor(data: Float32Array, dims: readonly number[]): FloatTensor {
  if (elementCount(dims) !== data.length)
    throw new RangeError(
      `Expected ${elementCount(dims)} values for [${dims}] but got ${data.length}`,
    )
  return { dtype: 'float32', dims, data }
}

/** An int32 tensor of token ids or table indices. */
export const intTensor = (data: Int32Array, dims: readonly number[]): IntTensor => ({
  dtype: 'int32',
  dims,
  data,
})
