/**
 * The index of the LoRA cache, one small JSON file per entry: from a name or a reference to the
 * sha256 of its weights. Nothing is kept in memory, so that processes see each other's entries, and
 * files are replaced atomically, so that a kill at any moment leaves whole entries only.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { codeOf, hasCode, invalidConfig } from '../errors.js'

const Entry = z.object({
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().int().nonnegative(),
  /** The reference that it came from, without secrets. */
  source: z.string(),
})
export type Entry = z.output<typeof Entry>

export type KeyedEntry = Entry & { readonly key: string; readonly usedAtMs: number }

export type Entries = {
  readonly read: (key: string) => Promise<Entry | undefined>
  /** Replaces the entry atomically. */
  readonly write: (key: string, entry: Entry) => Promise<void>
  readonly remove: (key: string) => Promise<void>
  /** Sets the time of the last use to now. */
  readonly touch: (key: string) => Promise<void>
  readonly list: () => Promise<KeyedEntry[]>
}

const suffix = '.json'

/** The folder of a cache for files that are being written. */
export const partialFilesFolder = 'parts'

/** Both kinds of entries of the cache in `folder`, which is made with the first entry. */
export function openEntries(folder: string) {
  const temporary = join(folder, partialFilesFolder)
  return {
    names: createEntries(join(folder, 'names'), temporary),
    references: createEntries(join(folder, 'references'), temporary),
  }
}

/** The entries in `folder`; `temporary` is a folder of the same file system. */
export function createEntries(folder: string, temporary: string): Entries {
  const pathOf = (key: string) => join(folder, `${encodeURIComponent(key)}${suffix}`)

  async function read(key: string): Promise<Entry | undefined> {
    // An entry that cannot be read is a miss: what it says can be found out again.
    return parse(await readFile(pathOf(key), 'utf8').catch(() => ''))
  }

  async function readListed(file: string): Promise<KeyedEntry[]> {
    const key = decodeURIComponent(file.slice(0, -suffix.length))
    const entry = await read(key)
    const stats = await stat(pathOf(key)).catch(() => undefined)
    return entry && stats ? [{ ...entry, key, usedAtMs: stats.mtimeMs }] : []
  }

  return {
    read,
    async write(key, entry) {
      await mkdir(folder, { recursive: true })
      await replaceFile(pathOf(key), join(temporary, `${randomUUID()}.tmp`), JSON.stringify(entry))
    },
    remove: (key) => rm(pathOf(key), { force: true }),
    // The entry may have been evicted by another process meanwhile; then there is nothing to
    // update.
    touch: (key) => utimes(pathOf(key), new Date(), new Date()).catch(() => undefined),
    async list() {
      const files = (await listFiles(folder)).filter((each) => each.endsWith(suffix))
      return (await Promise.all(files.map(readListed))).flat()
    },
  }
}

/**
 * The files in `folder`; none if it does not exist. Throws `config_invalid` if it is unreadable.
 */
async function listFiles(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return []
    throw invalidConfig(`Expected ${folder} to be a folder that can be read (${codeOf(error)})`)
  }
}

/** A damaged entry is a miss: the file is downloaded or found again. */
function parse(text: string): Entry | undefined {
  try {
    return Entry.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}

/** Replaces the file: after a power failure it has the old content or the new one. */
async function replaceFile(path: string, temporary: string, text: string): Promise<void> {
  const file = await open(temporary, 'wx')
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, path)
}
