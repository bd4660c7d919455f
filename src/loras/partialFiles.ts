/**
 * Whose half-written files are whose. A part carries the number of the process that writes it, so
 * that two processes never write one file; what a dead process left is taken over by the next one
 * that wants the same bytes, and thrown away when nobody does.
 */
import { readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { originPath } from '../net/download/partialFile.js'
import { isOther } from './leases.js'

export type Leftover = { readonly path: string; readonly bytes: number; readonly usedAtMs: number }

export type PartialFiles = {
  /** The path of this process's part for `key`, with what an earlier process left of it. */
  readonly claim: (key: string) => Promise<string>
  /** Ends the claim; what is left of the part may be taken or thrown away. */
  readonly release: (path: string) => void
  /** What no living process writes. */
  readonly leftovers: () => Promise<readonly Leftover[]>
}

/** The partial files in `folder`. */
export function createPartialFiles(folder: string): PartialFiles {
  const claimed = new Set<string>()
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
    release: (path) => void claimed.delete(path),
    async leftovers() {
      const files = (await list()).filter(isFree)
      return (await Promise.all(files.map((file) => measure(join(folder, file))))).flat()
    },
  }
}

/** What belongs to the part at `path` begins with it: its origin, the file that is unpacked from it. */
const stemOf = (path: string) => path.replace(/(?<=\.part)\..*$/, '')

/** Whether another living process writes it. */
const isWritten = (file: string) => isOther(Number(/\.(\d+)\.part/.exec(file)?.[1]))

/** Fails silently where another process was faster: then there is nothing to go on with. */
async function takeOver(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
    await rename(originPath(from), originPath(to))
  } catch {
    await rm(to, { force: true })
  }
}

async function measure(path: string): Promise<Leftover[]> {
  const stats = await stat(path).catch(() => undefined)
  return stats ? [{ path, bytes: stats.size, usedAtMs: stats.mtimeMs }] : []
}
