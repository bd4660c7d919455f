/**
 * The safetensors format: an 8-byte little-endian header length, that many bytes of JSON
 * ({ name: { dtype, shape, data_offsets: [begin, end] }, __metadata__? }), then the data, which
 * the tensors fill without gaps or overlaps. Only the header is ever read; weights stay in the
 * file and are pointed at by path, offset and length.
 */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs'
import { z } from 'zod'
import { firstFault, invalidCheckpoint } from '../errors.js'
import { elementCount, type StoredDType, storedBytes } from './tensor.js'

/** Where one tensor's bytes lie: all that a graph needs to use it. */
export type TensorSlice = {
  readonly name: string
  /** Absolute path with symbolic links resolved. */
  readonly file: string
  readonly dtype: StoredDType
  readonly shape: readonly number[]
  /** Bytes from the start of the file. */
  readonly offset: number
  readonly byteLength: number
  /** What fp8 values are to be multiplied by, where their file says so. */
  readonly scale?: number
}

export type SafetensorsFile = {
  /** What messages call it: its path, where it was opened without another name. */
  readonly name: string
  readonly tensors: ReadonlyMap<string, TensorSlice>
  readonly metadata: Readonly<Record<string, string>>
}

// The reference implementation refuses larger headers too.
const maxHeaderBytes = 100_000_000

// What a model or a LoRA never comes near. Messages quote names and shapes, and every tensor is
// looked at while others wait.
const maxTensors = 50_000
const maxDims = 8
const tensorName = /^\P{Cc}{1,300}$/u

const dtypes = Object.keys(storedBytes) as [StoredDType, ...StoredDType[]]
const size = z.number().int().nonnegative()
const Entry = z.object({
  dtype: z.enum(dtypes),
  shape: z.array(size).max(maxDims),
  data_offsets: z.tuple([size, size]),
})
const Metadata = z.record(z.string(), z.string())

/**
 * The tensors of one file, by name, after checking that its header is sound.
 * Throws `checkpoint_invalid` naming the file (by `fileName`), the tensor, what was expected and
 * what came.
 */
export function openSafetensors(path: string, fileName = path): SafetensorsFile {
  const { header, dataStart, dataBytes } = readHeader(path, fileName)
  const file = realpathSync(path)
  const { __metadata__, ...entries } = header
  const metadata = Metadata.safeParse(__metadata__ ?? {})
  if (!metadata.success)
    throw invalidCheckpoint(`${fileName}: expected __metadata__ to map strings to strings`)
  const named = Object.entries(entries)
  checkNames(fileName, named)
  const slices = named.map(([name, entry]) =>
    readEntry(fileName, file, name, entry, dataStart, dataBytes),
  )
  checkCoverage(fileName, slices, dataStart, dataBytes)
  return {
    name: fileName,
    tensors: new Map(slices.map((slice) => [slice.name, slice])),
    metadata: metadata.data,
  }
}

function readHeader(path: string, name: string) {
  const descriptor = openForReading(path, name)
  try {
    const fileBytes = fstatSync(descriptor).size
    const headerBytes = readHeaderLength(name, descriptor, fileBytes)
    const text = Buffer.alloc(headerBytes)
    readSync(descriptor, text, 0, headerBytes, 8)
    const dataStart = 8 + headerBytes
    return { header: parseHeader(name, text), dataStart, dataBytes: fileBytes - dataStart }
  } finally {
    closeSync(descriptor)
  }
}

function openForReading(path: string, name: string) {
  try {
    return openSync(path, 'r')
  } catch (cause) {
    // The system's message quotes the path.
    const reason = String(cause).replaceAll(path, name)
    throw invalidCheckpoint(`${name}: expected a readable safetensors file (${reason})`, cause)
  }
}

function readHeaderLength(path: string, descriptor: number, fileBytes: number): number {
  const prefix = Buffer.alloc(8)
  if (readSync(descriptor, prefix, 0, 8, 0) < 8)
    throw invalidCheckpoint(`${path}: expected a safetensors file but it has ${fileBytes} bytes`)
  const length = prefix.readBigUInt64LE()
  if (length > BigInt(maxHeaderBytes))
    throw invalidCheckpoint(`${path}: expected a safetensors file but this is ${describe(prefix)}`)
  if (8 + Number(length) > fileBytes)
    throw invalidCheckpoint(
      `${path}: the header needs ${8n + length} bytes but the file has ${fileBytes}; is it truncated?`,
    )
  return Number(length)
}

// What starts like this, given that it is no plausible header length.
function describe(prefix: Buffer): string {
  const text = prefix.toString('latin1')
  if (text.startsWith('GGUF')) return 'a GGUF file'
  if (text.startsWith('PK\x03\x04') || prefix[0] === 0x80) return 'a Python pickle'
  if (text.startsWith('version ')) return 'a Git LFS pointer (run `git lfs pull`)'
  return `something else: its header would have ${prefix.readBigUInt64LE()} bytes`
}

function parseHeader(path: string, text: Buffer): Record<string, unknown> {
  try {
    const header: unknown = JSON.parse(text.toString('utf8'))
    if (typeof header === 'object' && header !== null && !Array.isArray(header))
      return header as Record<string, unknown>
  } catch (cause) {
    throw invalidCheckpoint(`${path}: expected JSON in the safetensors header`, cause)
  }
  throw invalidCheckpoint(`${path}: expected a JSON object in the safetensors header`)
}

function checkNames(path: string, named: readonly (readonly [string, unknown])[]) {
  if (named.length > maxTensors)
    throw invalidCheckpoint(
      `${path}: expected at most ${maxTensors} tensors but there are ${named.length}`,
    )
  const bad = named.find(([each]) => !tensorName.test(each))?.[0]
  if (bad !== undefined)
    throw invalidCheckpoint(
      `${path}: expected tensor names of 1 to 300 characters, none of them a control character, but one of ${bad.length} begins with ${JSON.stringify(bad.slice(0, 50))}`,
    )
}

function readEntry(
  path: string,
  file: string,
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
): TensorSlice {
  const parsed = Entry.safeParse(entry)
  if (!parsed.success)
    throw invalidCheckpoint(`${path}: tensor ${name}: ${firstFault(parsed.error)}`)
  const { dtype, shape, data_offsets } = parsed.data
  const [begin, end] = data_offsets
  const needed = elementCount(shape) * storedBytes[dtype]
  if (end > dataBytes)
    throw invalidCheckpoint(
      `${path}: tensor ${name} ends at byte ${end} but the file holds ${dataBytes} bytes of data; is it truncated?`,
    )
  if (end - begin !== needed)
    throw invalidCheckpoint(
      `${path}: tensor ${name} is ${dtype} [${shape}] and needs ${needed} bytes but its offsets span ${end - begin}`,
    )
  return { name, file, dtype, shape, offset: dataStart + begin, byteLength: needed }
}

function checkCoverage(path: string, slices: TensorSlice[], dataStart: number, dataBytes: number) {
  const sorted = [...slices].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  let position = dataStart
  for (const slice of sorted) {
    if (slice.offset !== position) {
      const fault = slice.offset < position ? 'overlaps the tensor before it' : 'leaves a gap'
      throw invalidCheckpoint(
        `${path}: tensor ${slice.name} starts at byte ${slice.offset} and ${fault}; expected ${position}`,
      )
    }
    position += slice.byteLength
  }
  if (position !== dataStart + dataBytes)
    throw invalidCheckpoint(
      `${path}: expected the data to end at byte ${position} but the file has ${dataStart + dataBytes}`,
    )
}

/**
 * Rows [begin, end) of a matrix or vector as a slice of its own. Rows are contiguous in the file,
 * so a fused tensor (q, k, v) is taken apart without touching a byte.
 */
export function sliceRows(slice: TensorSlice, begin: number, end: number): TensorSlice {
  const [rows = 0, ...rest] = slice.shape
  if (begin < 0 || end > rows || begin >= end)
    throw invalidCheckpoint(
      `${slice.file}: tensor ${slice.name} has ${rows} rows but rows ${begin} to ${end} are needed`,
    )
  const rowBytes = slice.byteLength / rows
  return {
    ...slice,
    name: `${slice.name}[${begin}:${end}]`,
    shape: [end - begin, ...rest],
    offset: slice.offset + begin * rowBytes,
    byteLength: (end - begin) * rowBytes,
  }
}
