/**
 * The bytes of uploads, inputs and outputs: one file each, under an unguessable id. The row is
 * written after the bytes, so that a file with a row is complete. The quota bounds what users send
 * and admission; the output of an admitted prediction is written as long as the disk has space.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, readdir, readFile, rm, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { FluxdError, hasCode } from '../errors.js'
import type { FileKind, FilePage, FileStore, ListedFile, StoredFile } from '../store/fileStore.js'
import { randomId } from '../store/randomId.js'

export type NewFile = {
  readonly kind: FileKind
  readonly name: string
  readonly contentType: string
  readonly bytes: Uint8Array | AsyncIterable<Uint8Array>
  readonly metadata?: StoredFile['metadata'] | undefined
  readonly predictionId?: string | undefined
  readonly keyId?: string | undefined
}

export type Files = {
  /**
   * Resolves when the bytes are on disk. Throws `storage_full`, and errors of `bytes` as they are.
   */
  readonly add: (file: NewFile) => Promise<StoredFile>
  /** Undefined for an expired file. */
  readonly find: (id: string) => Promise<StoredFile | undefined>
  readonly list: (kind: FileKind, page: FilePage) => Promise<ListedFile[]>
  /** All bytes of a file. Throws `not_found`. */
  readonly read: (id: string) => Promise<Uint8Array>
  /**
   * The bytes of a file, or those of `range`, whose end is the last of them. Throws `not_found`.
   */
  readonly stream: (
    id: string,
    range?: { readonly start: number; readonly end: number },
  ) => Promise<Readable>
  /** Whether there was a file to remove. */
  readonly remove: (id: string) => Promise<boolean>
  /** Removes the inputs and outputs of a prediction. */
  readonly removeOfPrediction: (predictionId: string) => Promise<void>
  readonly removeOutputs: (predictionId: string) => Promise<void>
  /** Throws `storage_full` unless `bytes` more fit into the quota and onto the disk. */
  readonly assertDiskSpace: (bytes: number) => Promise<void>
  /** Removes expired uploads. */
  readonly removeExpired: () => Promise<void>
  /**
   * Removes what an interrupted server left: files without a row or prediction, and incomplete
   * ones.
   */
  readonly removeStrays: () => Promise<void>
}

export type FilesOptions = {
  readonly folder: string
  readonly store: FileStore
  /** The limit for the bytes of all files together. */
  readonly quota: number
  /** The lifetime of uploads; other files live as long as their prediction's data. */
  readonly uploadTtlMs?: number
}

const dayMs = 24 * 60 * 60 * 1000
/** Left free on the disk for the store and for outputs of admitted predictions. */
const minFreeBytes = 64 * 1024 * 1024
const freeBytesAgeMs = 1000
const chunkBytes = 1024 * 1024

export async function createFiles(options: FilesOptions): Promise<Files> {
  const { folder, store, quota, uploadTtlMs = dayMs } = options
  const pathOf = (id: string) => join(folder, id.slice(0, 2), id)
  let total = await store.totalSize()
  let free = { measuredAtMs: -Infinity, bytes: Promise.resolve(0) }

  async function add({ bytes, ...file }: NewFile): Promise<StoredFile> {
    const id = randomId()
    const path = pathOf(id)
    const isBounded = file.kind !== 'output'
    let size = 0
    const grow = (length: number) => {
      if (isBounded && total + length > quota) throw quotaReached(quota)
      size += length
      total += length
    }
    try {
      await mkdir(dirname(path), { recursive: true })
      const digests = await write(path, bytes, grow)
      const createdAt = new Date()
      const stored: StoredFile = {
        ...file,
        ...digests,
        id,
        size,
        metadata: file.metadata ?? {},
        createdAt,
        expiresAt: file.kind === 'upload' ? new Date(createdAt.getTime() + uploadTtlMs) : undefined,
      }
      await store.insert(stored)
      return stored
    } catch (error) {
      total -= size
      await rm(path, { force: true })
      throw explain(error)
    }
  }

  async function find(id: string): Promise<StoredFile | undefined> {
    const file = await store.find(id)
    return file?.expiresAt && file.expiresAt.getTime() <= Date.now() ? undefined : file
  }

  async function expect(id: string): Promise<StoredFile> {
    const file = await find(id)
    if (!file) throw notFound()
    return file
  }

  async function remove(id: string): Promise<boolean> {
    const file = await store.find(id)
    if (!file || !(await store.remove(id))) return false
    total -= file.size
    await rm(pathOf(id), { force: true })
    return true
  }

  async function removeAll(files: readonly StoredFile[]): Promise<void> {
    for (const { id } of files) await remove(id)
  }

  async function assertDiskSpace(bytes: number): Promise<void> {
    if (total + bytes > quota) throw quotaReached(quota)
    // Concurrent callers share one measurement, so that they continue in the order of their calls.
    if (performance.now() - free.measuredAtMs > freeBytesAgeMs)
      free = { measuredAtMs: performance.now(), bytes: measureFree(folder) }
    if ((await free.bytes) < bytes + minFreeBytes) throw diskFull()
  }

  return {
    add,
    find,
    list: (kind, page) => store.list(kind, page),
    read: async (id) => {
      await expect(id)
      return readFile(pathOf(id))
    },
    stream: async (id, range) => {
      await expect(id)
      return createReadStream(pathOf(id), range)
    },
    remove,
    removeOfPrediction: async (predictionId) =>
      removeAll(await store.listOfPrediction(predictionId)),
    async removeOutputs(predictionId) {
      const files = await store.listOfPrediction(predictionId)
      await removeAll(files.filter(({ kind }) => kind === 'output'))
    },
    assertDiskSpace,
    removeExpired: async () => removeAll(await store.listExpired(new Date(), 1000)),
    async removeStrays() {
      await removeAll(await store.listAbandoned())
      for (const { name, parentPath } of await listFiles(folder))
        if (!(await store.find(name))) await rm(join(parentPath, name), { force: true })
    },
  }
}

/** Writes and syncs the file and its directory entry; `onChunk` may throw. */
async function write(path: string, bytes: NewFile['bytes'], onChunk: (length: number) => void) {
  const [md5, sha256] = [createHash('md5'), createHash('sha256')]
  const handle = await open(path, 'wx')
  try {
    for await (const chunk of bytes instanceof Uint8Array ? cut(bytes) : bytes) {
      onChunk(chunk.length)
      md5.update(chunk)
      sha256.update(chunk)
      await handle.writeFile(chunk)
    }
    // Both syncs at once take hardly longer than one.
    await Promise.all([handle.sync(), syncFolder(dirname(path))])
  } finally {
    await handle.close()
  }
  return { md5: md5.digest('hex'), sha256: sha256.digest('hex') }
}

/** Chunks of `bytes`: digesting a large file in one piece would block the event loop. */
function* cut(bytes: Uint8Array): Iterable<Uint8Array> {
  for (let at = 0; at === 0 || at < bytes.length; at += chunkBytes)
    yield bytes.subarray(at, at + chunkBytes)
}

/**
 * Syncs the directory: without it a power failure can lose the name of a file whose bytes are safe.
 */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function measureFree(folder: string): Promise<number> {
  try {
    await mkdir(folder, { recursive: true })
    const { bavail, bsize } = await statfs(folder)
    return bavail * bsize
  } catch (error) {
    throw explain(error)
  }
}

async function listFiles(folder: string) {
  await mkdir(folder, { recursive: true })
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile())
}

const explain = (error: unknown) =>
  hasCode(error, 'ENOSPC', 'EDQUOT', 'EFBIG') ? diskFull(error) : error

const diskFull = (cause?: unknown) =>
  new FluxdError('storage_full', 'Expected room in the data folder but the disk is full', {
    cause,
    retryAfterSeconds: 60,
  })

const quotaReached = (quota: number) =>
  new FluxdError(
    'storage_full',
    `Expected room for more files but the quota of ${quota} bytes is reached`,
    {
      retryAfterSeconds: 60,
    },
  )

const notFound = () => new FluxdError('not_found', 'File not found')
