/**
 * What the library knows about its files, one small JSON file per entry: a name or a reference on
 * one side, the sha256 of the weights on the other. Nothing is kept in memory, so a second process
 * sees what the first one wrote, and a kill at any moment leaves whole entries only.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { codeOf, hasCode, invalidConfig } from '../errors.js'

const Entry = z.object({
  digest: z.string().regex(/^[0-9a-f]{64}$/),
  bytes: z.number().int().nonnegative(),
  /** Where it came from, fit to be shown. */
  source: z.string(),
})
export type Entry = z.output<typeof Entry>

export type KeyedEntry = Entry & { readonly key: string; readonly usedAtMs: number }

export type Entries = {
  readonly read: (key: string) => Promise<Entry | undefined>
  /** Replaces what is there, at once. */
  readonly write: (key: string, entry: Entry) => Promise<void>
  readonly remove: (key: string) => Promise<void>
  /** Makes the entry the one that was used last. */
  readonly touch: (key: string) => Promise<void>
  readonly list: () => Promise<KeyedEntry[]>
}

const suffix = '.json'

/** Of a library: for what is being written. */
export const partialFilesFolder = 'parts'

/** Both kinds of entries of the library in `folder`; nothing is made before something is written. */
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
    return parse(await readFile(pathOf(key), 'utf8').catch(() => ''))
  }

  async function describe(file: string): Promise<KeyedEntry[]> {
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
    // The entry may have been evicted by another process meanwhile.
    touch: (key) => utimes(pathOf(key), new Date(), new Date()).catch(() => undefined),
    async list() {
      const files = (await listFiles(folder)).filter((each) => each.endsWith(suffix))
      return (await Promise.all(files.map(describe))).flat()
    },
  }
}

/** A folder that is not there has no files; throws a sentence for one that cannot be read. */
async function listFiles(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return []
    throw invalidConfig(`Expected ${folder} to be a folder that can be read (${codeOf(error)})`)
  }
}

/** A damaged entry is as good as none: what it told can be found out again. */
function parse(text: string): Entry | undefined {
  try {
    return Entry.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}

/** The file has the old content or the new one, whenever the power fails. */
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
