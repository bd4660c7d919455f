/**
 * The safetensors format: an 8-byte little-endian header length, that many bytes of JSON
 * ({ name: { dtype, shape, data_offsets: [begin, end] }, __metadata__? }), then the data, which
 * the tensors fill without gaps or overlaps. Only the header is ever read; weights stay in the
 * file and are pointed at by path, offset and length.
 */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs'
import { z } from 'zod'
import { firstFault, invalidCheckpoint } from '../errors.js'
import { type HeaderLimits, parseHeader } from './header.js'
import { otherKind, readStart } from './kind.js'
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
  /** Absolute path with symbolic links resolved. */
  readonly path: string
  readonly tensors: ReadonlyMap<string, TensorSlice>
  readonly metadata: Readonly<Record<string, string>>
}

/** Tensors by name: a whole file's, or those of a network. */
export type Tensors = ReadonlyMap<string, TensorSlice>

// The reference implementation refuses larger headers too; no model comes near so many tensors.
const checkpointLimits: HeaderLimits = { bytes: 100_000_000, tensors: 50_000 }

// Messages quote names and shapes.
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

export type OpenOptions = {
  /** What messages call the file; its path unless given. */
  readonly name?: string
  readonly limits?: HeaderLimits
}

/**
 * The tensors of one file, by name, after checking that its header is sound and within `limits`.
 * Throws `checkpoint_invalid` naming the file, the tensor, what was expected and what came.
 */
export function openSafetensors(
  path: string,
  { name = path, limits = checkpointLimits }: OpenOptions = {},
): SafetensorsFile {
  const { header, dataStart, dataBytes } = readHeader(path, name, limits)
  const file = realpathSync(path)
  const { __metadata__, ...entries } = header
  const metadata = Metadata.safeParse(__metadata__ ?? {})
  if (!metadata.success)
    throw invalidCheckpoint(`${name}: expected __metadata__ to map strings to strings`)
  const named = Object.entries(entries)
  checkNames(name, named)
  const slices = named.map(([tensor, entry]) =>
    readEntry(name, file, tensor, entry, dataStart, dataBytes),
  )
  checkCoverage(name, slices, dataStart, dataBytes)
  return {
    name,
    path: file,
    tensors: new Map(slices.map((slice) => [slice.name, slice])),
    metadata: metadata.data,
  }
}

function readHeader(path: string, name: string, limits: HeaderLimits) {
  const descriptor = openForReading(path, name)
  try {
    const fileBytes = fstatSync(descriptor).size
    const headerBytes = readHeaderLength(readStart(path), name, fileBytes, limits)
    const text = Buffer.alloc(headerBytes)
    readSync(descriptor, text, 0, headerBytes, 8)
    const dataStart = 8 + headerBytes
    return { header: parseHeader(name, text, limits), dataStart, dataBytes: fileBytes - dataStart }
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

function readHeaderLength(start: Buffer, path: string, fileBytes: number, limits: HeaderLimits) {
  const length = start.length < 8 ? undefined : start.readBigUInt64LE()
  if (length !== undefined && length <= limits.bytes && 8n + length <= fileBytes)
    return Number(length)
  const other = otherKind(start, limits.bytes)
  if (other) throw invalidCheckpoint(`${path}: expected a safetensors file but it is ${other}`)
  throw invalidCheckpoint(
    `${path}: the header needs ${8n + length!} bytes but the file has ${fileBytes}; is it ` +
      'truncated?',
  )
}

function checkNames(path: string, named: readonly (readonly [string, unknown])[]) {
  const bad = named.find(([each]) => !tensorName.test(each))?.[0]
  if (bad !== undefined)
    throw invalidCheckpoint(
      `${path}: expected tensor names of 1 to 300 characters, none of them a control character, ` +
        `but one of ${bad.length} begins with ${JSON.stringify(bad.slice(0, 50))}`,
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
      `${path}: tensor ${name} ends at byte ${end} but the file holds ${dataBytes} bytes of ` +
        'data; is it truncated?',
    )
  if (end - begin !== needed)
    throw invalidCheckpoint(
      `${path}: tensor ${name} is ${dtype} [${shape}] and needs ${needed} bytes but its offsets ` +
        `span ${end - begin}`,
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
        `${path}: tensor ${slice.name} starts at byte ${slice.offset} and ${fault}; expected ` +
          `${position}`,
      )
    }
    position += slice.byteLength
  }
  if (position !== dataStart + dataBytes)
    throw invalidCheckpoint(
      `${path}: expected the data to end at byte ${position} but the file has ` +
        `${dataStart + dataBytes}`,
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
