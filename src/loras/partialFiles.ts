/**
 * The unfinished downloads of all processes that share a cache, `<key>.<pid>.part`. The process id
 * in the name keeps two processes from writing one file. What a process left when it ended is
 * continued by the next download of the same key, or evicted.
 */
import { readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { originPath } from '../net/download/partialFile.js'
import { isOtherProcess } from './leases.js'

export type Leftover = { readonly path: string; readonly bytes: number; readonly usedAtMs: number }

export type PartialFiles = {
  /** The path of this process's file for `key`, with the bytes that an ended process left of it. */
  readonly claim: (key: string) => Promise<string>
  /** Ends the claim; the file may be continued or evicted from now on. */
  readonly release: (path: string) => void
  /** The files that no living process writes. */
  readonly leftovers: () => Promise<readonly Leftover[]>
}

/** The partial files in `folder`. */
export function createPartialFiles(folder: string): PartialFiles {
  const claimed = new Set<string>()
  // A folder that is missing or unreadable holds nothing that could be continued.
  const list = async () => await readdir(folder).catch(() => [])
  const isFree = (file: string) => !claimed.has(stemOf(join(folder, file))) && !isWritten(file)

  return {
    async claim(key) {
      const own = join(folder, `${key}.${process.pid}.part`)
      claimed.add(own)
      const left = (await list()).find(
        (file) => file.startsWith(`${key}.`) && file.endsWith('.part') && !isWritten(file),
      )
      if (left && join(folder, left) !== own) await takeOver(join(folder, left), own)
      return own
    },
    release(path) {
      claimed.delete(path)
    },
    async leftovers() {
      const files = (await list()).filter(isFree)
      return (await Promise.all(files.map((file) => measure(join(folder, file))))).flat()
    },
  }
}

/** The path of the part that `path` belongs to: `…part.json` and `…part.entry` begin with it. */
const stemOf = (path: string) => path.replace(/(?<=\.part)\..*$/, '')

/** Whether another living process writes `file`. */
const isWritten = (file: string) => isOtherProcess(Number(/\.(\d+)\.part/.exec(file)?.[1]))

/** Renames a left part and its origin. */
async function takeOver(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
    await rename(originPath(from), originPath(to))
  } catch {
    // Another process was faster: the download starts at its first byte, nothing else is lost.
    await rm(to, { force: true })
  }
}

async function measure(path: string): Promise<Leftover[]> {
  // A file that another process has just taken over or evicted is no leftover any more.
  const stats = await stat(path).catch(() => undefined)
  return stats ? [{ path, bytes: stats.size, usedAtMs: stats.mtimeMs }] : []
}
