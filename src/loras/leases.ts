/**
 * Which weights are in use. Within a process that is counted; to the other processes of the machine
 * an empty file named after the digest and the process says so, for as long as that process lives.
 */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../errors.js'

export type Leases = {
  /** Returns what ends the lease; calling that again does nothing. */
  readonly take: (digest: string) => () => void
  readonly isLeased: (digest: string) => boolean
}

/** The leases in `folder`, which is made. All of it is synchronous, so that nothing comes in between. */
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
      readdirSync(folder).some((mark) => mark.startsWith(`${digest}.`) && isOther(pidOf(mark))),
  }
}

function removeDead(folder: string): void {
  for (const mark of readdirSync(folder)) {
    const pid = pidOf(mark)
    if (pid !== process.pid && !isOther(pid)) rmSync(join(folder, mark), { force: true })
  }
}

const pidOf = (mark: string) => Number(mark.slice(mark.lastIndexOf('.') + 1))

/** Whether `pid` is another process that lives; a number that is ours is of an earlier start. */
export function isOther(pid: number): boolean {
  if (!(pid > 0) || pid === process.pid) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return hasCode(error, 'EPERM')
  }
}
