/**
 * The JSON header of a safetensors file, parsed within bounds: JSON.parse blocks its thread and
 * builds an object for every bracket, so what no model has is refused before it is parsed.
 * One pass over the bytes counts values and depth; a megabyte takes some milliseconds.
 */
import { invalidCheckpoint } from '../errors.js'

export type HeaderLimits = {
  readonly bytes: number
  readonly tensors: number
}

// Entries of __metadata__: trainers write some dozens.
const maxMetadataKeys = 10_000

// name, dtype, shape, two offsets, and what separates them; a shape has at most 8 dims.
const marksPerTensor = 32
const maxDepth = 4

/** The header's object. Throws `checkpoint_invalid`, naming `path`, for what is no such header. */
export function parseHeader(
  path: string,
  text: Buffer,
  limits: HeaderLimits,
): Record<string, unknown> {
  checkSize(path, text, limits.tensors)
  const header = parseObject(path, text)
  const { __metadata__, ...tensors } = header
  checkCount(path, 'tensors', Object.keys(tensors).length, limits.tensors)
  checkCount(path, 'keys in __metadata__', countKeys(__metadata__), maxMetadataKeys)
  return header
}

function parseObject(path: string, text: Buffer): Record<string, unknown> {
  try {
    const header: unknown = JSON.parse(text.toString('utf8'))
    if (typeof header === 'object' && header !== null && !Array.isArray(header))
      return header as Record<string, unknown>
  } catch (cause) {
    throw invalidCheckpoint(`${path}: expected JSON in the safetensors header`, cause)
  }
  throw invalidCheckpoint(`${path}: expected a JSON object in the safetensors header`)
}

const countKeys = (value: unknown) =>
  typeof value === 'object' && value !== null ? Object.keys(value).length : 0

function checkCount(path: string, what: string, count: number, max: number) {
  if (count > max)
    throw invalidCheckpoint(`${path}: expected at most ${max} ${what} but there are ${count}`)
}

const [quote, backslash, comma, colon] = [0x22, 0x5c, 0x2c, 0x3a]
const opening: readonly number[] = [0x7b, 0x5b]
const closing: readonly number[] = [0x7d, 0x5d]

/** Throws when the text nests deeper, or separates more values, than a header of `tensors` does. */
function checkSize(path: string, text: Buffer, tensors: number) {
  const maxMarks = tensors * marksPerTensor + maxMetadataKeys * 2
  let marks = 0
  let depth = 0
  for (let at = 0; at < text.length; at++) {
    const byte = text[at]!
    if (byte === quote) at = endOfString(text, at)
    else if (byte === comma || byte === colon) marks++
    else if (opening.includes(byte)) depth++
    else if (closing.includes(byte)) depth--
    if (depth > maxDepth)
      throw invalidCheckpoint(
        `${path}: expected a safetensors header but it nests deeper than ${maxDepth} levels`,
      )
    if (marks > maxMarks)
      throw invalidCheckpoint(
        `${path}: expected a header of at most ${tensors} tensors and ${maxMetadataKeys} keys in ` +
          '__metadata__ but it holds more',
      )
  }
}

/** Where the string that begins at `at` ends; the end of the text where it does not. */
function endOfString(text: Buffer, at: number): number {
  for (let i = at + 1; i < text.length; i++) {
    if (text[i] === backslash) i++
    else if (text[i] === quote) return i
  }
  return text.length
}
