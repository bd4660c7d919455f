/**
 * Leases of cached files: a file in use is not evicted. A process counts its own leases; an empty
 * file `<digest>.<pid>` tells the other processes of the machine, as long as that process lives.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../errors.js'

export type Leases = {
  /** Leases a file and returns the release; calling that again does nothing. */
  readonly take: (digest: string) => () => void
  readonly isLeased: (digest: string) => boolean
}

/**
 * The leases in `folder`, which is made. Every operation is synchronous, hence atomic in a process.
 */
export function createLeases(folder: string): Leases {
  mkdirSync(folder, { recursive: true })
  removeDead(folder)
  const counts = new Map<string, number>()
  const markOf = (digest: string) => join(folder, `${digest}.${process.pid}`)

  function drop(digest: string) {
    const left = counts.get(digest)! - 1
    if (left > 0) counts.set(digest, left)
    else {
      counts.delete(digest)
      rmSync(markOf(digest), { force: true })
    }
  }

  return {
    take(digest) {
      if (!counts.has(digest)) writeFileSync(markOf(digest), '')
      counts.set(digest, (counts.get(digest) ?? 0) + 1)
      let isLeased = true
      return () => {
        if (isLeased) drop(digest)
        isLeased = false
      }
    },
    isLeased: (digest) =>
      counts.has(digest) ||
      readdirSync(folder).some(
        (mark) => mark.startsWith(`${digest}.`) && isOtherProcess(pidOf(mark)),
      ),
  }
}

function removeDead(folder: string): void {
  for (const mark of readdirSync(folder)) {
    const pid = pidOf(mark)
    if (pid !== process.pid && !isOtherProcess(pid)) rmSync(join(folder, mark), { force: true })
  }
}

const pidOf = (mark: string) => Number(mark.slice(mark.lastIndexOf('.') + 1))

/**
 * Whether `pid` is another living process. This process's id in a name is from an earlier start.
 */
export function isOtherProcess(pid: number): boolean {
  if (!(pid > 0) || pid === process.pid) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return hasCode(error, 'EPERM')
  }
}
