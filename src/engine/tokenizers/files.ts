/** The files of a tokenizer's folder, read and validated; errors name the file. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'

/** The JSON file at `path`, validated; throws `checkpoint_invalid` naming file and field. */
export function readJson<T>(path: string, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(parse(path, readText(path)))
  if (parsed.success) return parsed.data
  throw invalidCheckpoint(`${path}: ${z.prettifyError(parsed.error)}`, parsed.error)
}

/** The text file at `path`; throws `checkpoint_invalid`. */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw invalidCheckpoint(`${path}: expected a file of a tokenizer (${String(cause)})`, cause)
  }
}

function parse(path: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw invalidCheckpoint(`${path}: expected JSON (${String(cause)})`, cause)
  }
}
