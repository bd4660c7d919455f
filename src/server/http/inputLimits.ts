/**
 * How long the fields of an input may be. The store keeps an input as text and every reply about
 * its prediction parses and repeats it; only long data URIs of images become files. Without limits
 * one request of 100 MB costs a second of the server's time whenever its prediction is read.
 */
import { z } from 'zod'
import { fileFields } from '../../contract/input.js'
import { HttpError } from './errors.js'

/** Characters of a field; URLs and references are much shorter. */
export const longestField = 64 * 1024
/** Characters of a LoRA as a data URI: about 12 MB of weights. */
export const longestLora = 16 * 1024 * 1024
/** Characters of all fields together, without prompt, images and LoRAs. */
export const longestRest = 4 * 1024 * 1024

const images: readonly string[] = fileFields
const loras = ['replicate_weights', 'extra_lora', 'lora_weights']

/**
 * Throws a ZodError that names the fields of `sent` which are too long, placed below `input`, and
 * the 413 of too many long ones.
 */
export function assertFieldLengths(sent: Readonly<Record<string, unknown>>): void {
  const lengths = Object.entries(sent).map(([field, value]) => ({
    field,
    value,
    length: lengthOf(value),
    most: mostOf(field, value),
  }))
  const tooLong = lengths.filter(({ length, most }) => length > most)
  if (tooLong.length > 0) throw new z.ZodError(tooLong.map(describe))
  const rest = lengths.filter(({ most }) => most === longestField)
  if (rest.reduce((sum, { field, length }) => sum + field.length + length, 0) > longestRest)
    throw new HttpError(
      413,
      `Expected at most ${longestRest} characters of input besides prompt, images and LoRAs`,
    )
}

/** The schema bounds the prompt. */
function mostOf(field: string, value: unknown): number {
  if (field === 'prompt') return Number.POSITIVE_INFINITY
  const isData = typeof value === 'string' && /^data:/i.test(value)
  if (isData && images.includes(field)) return Number.POSITIVE_INFINITY
  return isData && loras.includes(field) ? longestLora : longestField
}

const lengthOf = (value: unknown): number =>
  typeof value === 'string' ? value.length : (JSON.stringify(value)?.length ?? 0)

const describe = ({ field, value, most }: { field: string; value: unknown; most: number }) => ({
  code: 'too_big' as const,
  origin: 'string' as const,
  maximum: most,
  inclusive: true,
  path: ['input', field],
  // Repeated by no reply, and too long to keep.
  input: typeof value === 'string' ? value.slice(0, 64) : '…',
  message: `Expected at most ${most} characters`,
})
