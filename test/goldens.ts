/**
 * The golden cases of test/fixtures: tensors that the reference Python stack produced on tiny
 * random-weight pipelines. fixtures/README.md explains kinds, inputs and tolerances.
 * This reader of safetensors (8-byte header length, JSON header, data) is the tests' own, so that
 * the product's reader is not checked with itself.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export type GoldenTensor = {
  readonly shape: readonly number[]
  /** F32, F16 and BF16 as floats; I32 and I64 as int32; U8 and BOOL as bytes. */
  readonly data: Float32Array | Int32Array | Uint8Array
  /** Largest accepted absolute difference; absent for inputs and bytes. */
  readonly atol?: number
  /** For bytes: largest difference, and the share of values that may differ. */
  readonly max_abs_diff?: number
  readonly max_mismatch_fraction?: number
}

export type GoldenCase = {
  readonly id: string
  readonly kind: string
  readonly model: string | null
  // biome-ignore lint/suspicious/noExplicitAny: each kind has its own parameters
  readonly params: Readonly<Record<string, any>>
  readonly inputs: Readonly<Record<string, GoldenTensor>>
  readonly outputs: Readonly<Record<string, GoldenTensor>>
}

type TensorRecord = Omit<GoldenTensor, 'data'> & { readonly key: string }

export type CaseRecord = {
  readonly id: string
  readonly kind: string
  readonly model: string | null
  readonly file: string
  readonly params: GoldenCase['params']
  readonly inputs?: Readonly<Record<string, TensorRecord>>
  readonly outputs?: Readonly<Record<string, TensorRecord>>
  readonly also_valid_for?: readonly string[]
}

export type Manifest = {
  // biome-ignore lint/suspicious/noExplicitAny: dimensions and overrides of each layout
  readonly models: Readonly<Record<string, Readonly<Record<string, any>>>>
  readonly cases: readonly CaseRecord[]
}

/** Absolute path of a file below test/fixtures. */
export const fixturePath = (path: string) =>
  fileURLToPath(new URL(`./fixtures/${path}`, import.meta.url))

export const readFixtureJson = (path: string) => JSON.parse(readFileSync(fixturePath(path), 'utf8'))

export const readManifest = (): Manifest => readFixtureJson('manifest.json')

/** One case of the manifest with its tensors. JSON cases (tokens, sigmas) have none: read those with `readFixtureJson`. */
export function goldenCase(id: string): GoldenCase {
  const record = readManifest().cases.find((each) => each.id === id)
  if (!record) throw new Error(`No golden case ${id} in test/fixtures/manifest.json`)
  const stored = readSafetensors(fixturePath(record.file))
  const withData = (tensors: CaseRecord['inputs'] = {}) =>
    Object.fromEntries(
      Object.entries(tensors).map(([name, { key, ...tensor }]) => {
        const found = stored[key]
        if (!found) throw new Error(`No tensor ${key} in ${record.file}`)
        return [name, { ...tensor, ...found }]
      }),
    )
  const { kind, model, params } = record
  return {
    id,
    kind,
    model,
    params,
    inputs: withData(record.inputs),
    outputs: withData(record.outputs),
  }
}

/** All tensors of a safetensors file, by name. */
export function readSafetensors(path: string): Record<string, GoldenTensor> {
  const file = readFileSync(path)
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, start))
  const tensors: Record<string, GoldenTensor> = {}
  for (const [name, entry] of Object.entries<HeaderEntry>(header)) {
    if (name === '__metadata__') continue
    const [from, to] = entry.data_offsets
    // A copy, because typed arrays need an aligned start.
    const bytes = file.buffer.slice(file.byteOffset + start + from, file.byteOffset + start + to)
    tensors[name] = { shape: entry.shape, data: decode(entry.dtype, bytes as ArrayBuffer) }
  }
  return tensors
}

type HeaderEntry = { dtype: string; shape: number[]; data_offsets: [number, number] }

function decode(dtype: string, bytes: ArrayBuffer): GoldenTensor['data'] {
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes)
    case 'BF16':
      // The upper half of a float32.
      return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer)
    case 'F16':
      return Float32Array.from(new Uint16Array(bytes), halfToFloat)
    case 'I32':
      return new Int32Array(bytes)
    case 'I64':
      return Int32Array.from(new BigInt64Array(bytes), Number)
    case 'U8':
    case 'BOOL':
      return new Uint8Array(bytes)
    default:
      throw new Error(`Expected a dtype of the golden files but received ${dtype}`)
  }
}

function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * 2 ** -24 * fraction
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * 2 ** (exponent - 25) * (1024 + fraction)
}

/** The largest absolute difference of two equally long arrays, and where it is. NaN counts as infinite. */
export function maxDifference(got: ArrayLike<number>, want: ArrayLike<number>) {
  if (got.length !== want.length)
    throw new Error(`Expected ${want.length} values but received ${got.length}`)
  let difference = 0
  let index = 0
  for (let i = 0; i < want.length; i++) {
    const d = Math.abs(got[i]! - want[i]!)
    if (d <= difference) continue
    difference = Number.isNaN(d) ? Number.POSITIVE_INFINITY : d
    index = i
  }
  return { difference, index }
}

/** Fails with the largest difference, its place and both values; returns the largest difference. */
export function expectClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  atol: number,
  what = 'values',
): number {
  const { difference, index } = maxDifference(got, want)
  if (difference > atol)
    throw new Error(
      `Expected ${what} within ${atol} but the maximum difference is ${difference} at ${index}: ` +
        `received ${got[index]}, wanted ${want[index]}`,
    )
  return difference
}

/** Every output of the case that `got` holds, each within its own tolerance; returns the largest difference of each. */
export function expectOutputs(
  golden: GoldenCase,
  got: Readonly<Record<string, ArrayLike<number>>>,
) {
  const differences: Record<string, number> = {}
  for (const [name, values] of Object.entries(got)) {
    const want = golden.outputs[name]
    if (!want) throw new Error(`No output ${name} in golden case ${golden.id}`)
    const what = `${golden.id} ${name}`
    differences[name] =
      want.atol === undefined
        ? expectCloseBytes(values, want, what)
        : expectClose(values, want.data, want.atol, what)
  }
  return differences
}

/** Bytes may differ by `max_abs_diff`, in at most `max_mismatch_fraction` of all places. */
function expectCloseBytes(got: ArrayLike<number>, want: GoldenTensor, what: string): number {
  const difference = expectClose(got, want.data, want.max_abs_diff ?? 0, what)
  const mismatches = Array.from(want.data).filter((value, i) => value !== got[i]).length
  const fraction = mismatches / want.data.length
  if (fraction > (want.max_mismatch_fraction ?? 1))
    throw new Error(`Expected ${what} to differ in few places but ${fraction} of them differ`)
  return difference
}
