/**
 * Weights on disk, each file once however many references lead to it:
 *
 *   blobs/<sha256>.safetensors   immutable
 *   references/<key>.json        the digest that a reference led to; its mtime is the last use
 *   names/<name>.json            the same for names that the operator gave; never evicted
 *   parts/                       downloads under way and other temporary files
 *   holds/                       leases: which process uses which file
 *
 * The quota covers all of it. The least recently used file is evicted first; named and leased files
 * stay, even if they exceed the quota. Several processes may share the folder.
 */
import { renameSync, rmSync, statSync } from 'node:fs'
import { readdir, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { createMutex } from '../async/mutex.js'
import { hasCode } from '../errors.js'
import { makeWritable } from '../store/writableFolder.js'
import { type Entries, type Entry, openEntries, partialFilesFolder } from './entries.js'
import { createLeases } from './leases.js'
import { createPartialFiles, type PartialFiles } from './partialFiles.js'

export type BlobStoreLimits = {
  readonly quotaBytes: number
  /** Free bytes that the disk keeps after a file is added. */
  readonly minFreeBytes: number
}

/** A file that is not evicted until it is released. */
export type LeasedBlob = {
  readonly path: string
  readonly digest: string
  readonly bytes: number
  readonly release: () => void
}

export type BlobStore = {
  readonly references: Entries
  readonly names: Entries
  readonly partialFiles: PartialFiles
  /** A lease of the entry's file; undefined if the file has been evicted. */
  readonly lease: (entry: Pick<Entry, 'digest' | 'bytes'>) => LeasedBlob | undefined
  /** Moves the file at `path` into the store, writes its entry, and leases it. */
  readonly admit: (
    path: string,
    entry: Entry,
    place: EntryKey,
    report: Report,
  ) => Promise<LeasedBlob>
  /** Evicts until `incoming` bytes fit, reporting each file. */
  readonly evictToFit: (incoming: number, report: Report) => Promise<void>
  readonly freeBytes: () => Promise<number>
  readonly isLeased: (digest: string) => boolean
  /** Removes the weights unless they are leased or have a name. */
  readonly discard: (digest: string) => Promise<void>
}

/** The place of an entry: the names or the references, and its key there. */
export type EntryKey = { readonly entries: Entries; readonly key: string }

type Report = (line: string) => void
type Evictable = { readonly path: string; readonly bytes: number; readonly usedAtMs: number }
type Blob = Evictable & { readonly digest: string; readonly isNamed: boolean }

const dayMs = 24 * 60 * 60_000
const suffix = '.safetensors'

/** The store in `folder`, which is made. Throws `config_invalid` if it cannot be written to. */
export function createBlobStore(
  folder: string,
  { quotaBytes, minFreeBytes }: BlobStoreLimits,
): BlobStore {
  const [blobsFolder, draftsFolder] = [join(folder, 'blobs'), join(folder, partialFilesFolder)]
  for (const each of [blobsFolder, draftsFolder]) makeWritable(each)
  const { names, references } = openEntries(folder)
  const partialFiles = createPartialFiles(draftsFolder)
  const leases = createLeases(join(folder, 'holds'))
  const exclusively = createMutex()

  const pathOf = (digest: string) => join(blobsFolder, `${digest}${suffix}`)

  // Leased before the file is looked for: an eviction before that is a miss, one after it waits.
  function lease({ digest, bytes }: Pick<Entry, 'digest' | 'bytes'>): LeasedBlob | undefined {
    const path = pathOf(digest)
    const release = leases.take(digest)
    if (statSync(path, { throwIfNoEntry: false })?.size === bytes)
      return { path, digest, bytes, release }
    release()
    return undefined
  }

  function moveIntoStore(path: string, entry: Entry): LeasedBlob {
    renameSync(path, pathOf(entry.digest))
    return lease(entry)!
  }

  const freeBytes = async () => {
    const { bavail, bsize } = await statfs(folder)
    return bavail * bsize
  }

  async function listBlobs(): Promise<Blob[]> {
    const [named, referred] = await Promise.all([names.list(), references.list()])
    const files = (await readdir(blobsFolder)).filter((each) => each.endsWith(suffix))
    const blobs = await Promise.all(
      files.map(async (file): Promise<Blob[]> => {
        const digest = file.slice(0, -suffix.length)
        const path = pathOf(digest)
        // Evicted by another process since the folder was read.
        const stats = await stat(path).catch(() => undefined)
        if (!stats) return []
        const uses = [...named, ...referred].filter((entry) => entry.digest === digest)
        // A file without an entry is from a process that was killed between the two.
        const usedAtMs = Math.max(
          ...uses.map((use) => use.usedAtMs),
          uses.length ? 0 : stats.mtimeMs,
        )
        const isNamed = named.some((entry) => entry.digest === digest)
        return [{ digest, path, bytes: stats.size, usedAtMs, isNamed }]
      }),
    )
    return blobs.flat()
  }

  async function evictToFit(incoming: number, report: Report): Promise<void> {
    const leftovers = await removeStale(await partialFiles.leftovers())
    const blobs = await listBlobs()
    let total = [...blobs, ...leftovers].reduce((sum, { bytes }) => sum + bytes, incoming)
    const isEnough = async () =>
      total <= quotaBytes && (await freeBytes()) - incoming >= minFreeBytes
    const evictable = leftovers.filter(({ path }) => !path.endsWith('.tmp'))
    const candidates = [...evictable, ...blobs.filter((blob) => !blob.isNamed)].sort(
      (a, b) => a.usedAtMs - b.usedAtMs,
    )
    for (const oldest of candidates) {
      if (await isEnough()) return
      if (!(await evict(oldest))) continue
      report(`removing oldest ${oldest.path}`)
      total -= oldest.bytes
    }
  }

  async function evict(oldest: Evictable | Blob): Promise<boolean> {
    if ('digest' in oldest) return removeBlob(oldest.digest)
    await rm(oldest.path, { force: true })
    return true
  }

  async function removeBlob(digest: string): Promise<boolean> {
    if (leases.isLeased(digest)) return false
    // Another process may lease the file after the check above. It is checked again when the file
    // has been moved away and can be found no more.
    const aside = join(draftsFolder, `${digest}.${process.pid}.part.evicted`)
    if (moveIfThere(pathOf(digest), aside) && leases.isLeased(digest)) {
      renameSync(aside, pathOf(digest))
      return false
    }
    rmSync(aside, { force: true })
    for (const entry of await references.list())
      if (entry.digest === digest) await references.remove(entry.key)
    return true
  }

  return {
    references,
    names,
    partialFiles,
    lease,
    freeBytes,
    evictToFit: (incoming, report) => exclusively(() => evictToFit(incoming, report)),
    isLeased: leases.isLeased,
    admit: (path, entry, { entries, key }, report) =>
      exclusively(async () => {
        await evictToFit(entry.bytes, report)
        const leased = lease(entry) ?? moveIntoStore(path, entry)
        await rm(path, { force: true })
        await orRelease(leased, () => entries.write(key, entry))
        return leased
      }),
    discard: (digest) =>
      exclusively(async () => {
        const isThere = statSync(pathOf(digest), { throwIfNoEntry: false }) !== undefined
        const uses = await names.list()
        if (isThere && !uses.some((use) => use.digest === digest)) await removeBlob(digest)
      }),
  }
}

/** Whether there was a file at `from`. */
function moveIfThere(from: string, to: string): boolean {
  try {
    renameSync(from, to)
    return true
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false
    throw error
  }
}

/** Removes the partial files that were not continued for a day; returns the others. */
async function removeStale<T extends Evictable>(leftovers: readonly T[]): Promise<T[]> {
  const isStale = ({ usedAtMs }: T) => usedAtMs < Date.now() - dayMs
  await Promise.all(leftovers.filter(isStale).map(({ path }) => rm(path, { force: true })))
  return leftovers.filter((each) => !isStale(each))
}

async function orRelease(leased: LeasedBlob, task: () => Promise<void>): Promise<void> {
  try {
    await task()
  } catch (error) {
    leased.release()
    throw error
  }
}
