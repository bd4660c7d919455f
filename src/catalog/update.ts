/** Changes of an existing model: its entry, and the readme beside it. */
import { randomUUID } from 'node:crypto'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { invalidInput } from '../errors.js'
import { checkEntry, type EntryFields, readEntry } from './entry.js'
import { maxReadmeBytes, readmeOf } from './model.js'

export type ModelChanges = {
  readonly description?: string
  readonly loras?: EntryFields['loras']
  /** Markdown. */
  readonly readme?: string
}

/**
 * Applies `changes` to `file`, an entry of the catalog, and to its readme; each file is replaced
 * atomically. Throws `invalid_input` naming the key.
 */
export async function updateEntry(
  file: string,
  { readme, ...changes }: ModelChanges,
): Promise<void> {
  const entry = checkEntry({ ...readEntry(file, await readFile(file, 'utf8')), ...changes })
  if (readme !== undefined && readme.length > maxReadmeBytes)
    throw invalidInput(`readme: expected at most ${maxReadmeBytes} characters`)
  await replaceFile(file, `${JSON.stringify(entry, null, 2)}\n`)
  if (readme !== undefined) await replaceFile(readmeOf(file), readme)
}

async function replaceFile(file: string, text: string): Promise<void> {
  const draft = join(dirname(file), `.${randomUUID()}`)
  try {
    await writeFile(draft, text)
    await rename(draft, file)
  } finally {
    await rm(draft, { force: true })
  }
}
