/**
 * Downloads a repository's files into a folder, several at once. A file gets its name after its
 * digest has been checked, and the next pull checks it again, so that an interrupted pull can be
 * continued.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { FluxdError } from '../../errors.js'
import { originPath, removePartialFile } from '../download/partialFile.js'
import { bearerFor } from '../download/remoteFile.js'
import { type Downloaded, download, type RetryPolicy } from '../download/resumable.js'
import {
  checkAccess,
  explainDenial,
  type Repository,
  type RepositoryFile,
  type RepositorySource,
} from './repository.js'

export type PullProgress = {
  readonly start: (file: RepositoryFile) => void
  /** `done` is the number of the file's bytes on disk. */
  readonly update: (file: RepositoryFile, done: number) => void
  readonly finish: (file: RepositoryFile) => void
}

// More connections are no faster and leave more files incomplete when a pull is interrupted.
const filesAtOnce = 3

/** Patient enough for a slow connection, which needs days for the 34 GB of Flux.1. */
export const pullRetryPolicy: RetryPolicy = {
  attempts: 8,
  delayMs: 500,
  stallMs: 60_000,
  timeoutMs: 14 * 24 * 60 * 60_000,
  minBytesPerSecond: 1024,
}

/**
 * Downloads all files of `repository` into `folder`, which exists; complete files are kept. Throws
 * one sentence that names the file; the bytes that have come are continued by the next pull.
 */
export async function pullRepository(
  repository: Repository,
  folder: string,
  source: RepositorySource,
  progress: PullProgress,
  retry: RetryPolicy = pullRetryPolicy,
): Promise<void> {
  const files = repository.files.toSorted((a, b) => a.bytes - b.bytes)
  await checkAccess(repository, files[0]!, source)
  await assertDiskSpace(files, folder)

  const stopping = new AbortController()
  const signal = AbortSignal.any([source.signal, stopping.signal])
  const pullNext = async (): Promise<void> => {
    for (let file = files.shift(); file; file = files.shift()) {
      progress.start(file)
      const local = { path: join(folder, file.path), file, progress }
      if (!(await isComplete(local, signal)))
        await pullFile(repository, local, { ...source, signal }, retry)
      progress.finish(file)
    }
  }
  const workers = Array.from({ length: filesAtOnce }, pullNext)
  try {
    await Promise.all(workers)
  } finally {
    // The first failure aborts the other downloads, which close their files and fail alike.
    stopping.abort()
    await Promise.allSettled(workers)
  }
}

type LocalFile = {
  readonly path: string
  readonly file: RepositoryFile
  readonly progress: PullProgress
}

async function pullFile(
  { name }: Repository,
  local: LocalFile,
  { client, host, signal }: RepositorySource,
  retry: RetryPolicy,
): Promise<void> {
  const { path, file, progress } = local
  await mkdir(dirname(path), { recursive: true })
  const part = partPath(path)
  const request = {
    url: file.url,
    bearer: bearerFor(file.url, host),
    maxBytes: file.bytes,
    signal,
    onProgress: (done: number) => progress.update(file, done),
  }
  const reply = await withFileName(file, () => download(client, part, request, retry))
  if (reply.kind === 'refused') throw explainStatus(name, file, reply.status, host)
  await checkPart(part, file, reply, signal)
  await rename(part, path)
  await rm(originPath(part), { force: true })
}

/** Removes the partial file and throws unless it has the size and digest of the hub's list. */
async function checkPart(
  part: string,
  file: RepositoryFile,
  { bytes, sha256 }: Extract<Downloaded, { kind: 'file' }>,
  signal: AbortSignal,
): Promise<void> {
  const { kind, hex } = file.digest
  const digest = kind === 'sha256' ? sha256 : await digestOf(part, file, signal)
  if (bytes === file.bytes && digest === hex) return
  await removePartialFile(part)
  throw new Error(
    `${file.path}: expected ${file.bytes} bytes with ${kind} digest ${hex} ` +
      `but received ${bytes} with ${digest}`,
  )
}

async function isComplete(
  { path, file, progress }: LocalFile,
  signal: AbortSignal,
): Promise<boolean> {
  if ((await sizeOf(path)) !== file.bytes) return false
  const onBytes = (done: number) => progress.update(file, done)
  return (await digestOf(path, file, signal, onBytes)) === file.digest.hex
}

async function digestOf(
  path: string,
  { bytes, digest }: RepositoryFile,
  signal: AbortSignal,
  onBytes: (done: number) => void = () => {},
): Promise<string> {
  const hash =
    digest.kind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`)
  let done = 0
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    if (signal.aborted) throw new FluxdError('canceled', 'The download was canceled')
    hash.update(chunk)
    done += chunk.length
    onBytes(done)
  }
  return hash.digest('hex')
}

/**
 * Throws `storage_full` unless the missing bytes fit; those of an interrupted pull are not missing.
 */
async function assertDiskSpace(files: readonly RepositoryFile[], folder: string): Promise<void> {
  const missing = await Promise.all(
    files.map(async ({ path, bytes }) => {
      const [whole, part] = await Promise.all(
        [join(folder, path), partPath(join(folder, path))].map(sizeOf),
      )
      return whole === bytes ? 0 : bytes - Math.min(part ?? 0, bytes)
    }),
  )
  const needed = missing.reduce((sum, bytes) => sum + bytes, 0)
  const { bavail, bsize } = await statfs(folder)
  if (needed <= bavail * bsize) return
  throw new FluxdError(
    'storage_full',
    `Expected ${gigabytes(needed)} of free space in ${folder} ` +
      `but there are ${gigabytes(bavail * bsize)}`,
  )
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`

const partPath = (path: string) => `${path}.part`

const sizeOf = async (path: string) => (await stat(path).catch(() => undefined))?.size

async function withFileName<T>(file: RepositoryFile, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    if (cause instanceof FluxdError && cause.code === 'canceled') throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`${file.path}: ${reason}`, { cause })
  }
}

const explainStatus = (
  name: string,
  file: RepositoryFile,
  status: number,
  host: RepositorySource['host'],
) =>
  status === 401 || status === 403
    ? new FluxdError('forbidden', explainDenial(name, host))
    : new Error(`${file.path}: expected a file but ${host.url} answered with status ${status}`)
