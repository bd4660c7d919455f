/**
 * An unfinished download: its bytes so far, their running hash, and in a second file the URL and
 * the validator with which the rest can be requested. It outlives the process that wrote it.
 */
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, open, readFile, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'

const Origin = z.object({
  /** The URL, hashed: it may hold a token. */
  url: z.string(),
  /** A strong ETag or a Last-Modified date; without one the rest cannot be requested. */
  validator: z.string().optional(),
  total: z.number().int().nonnegative().optional(),
})

/** Where the bytes came from: one version of one file. */
export type Origin = z.output<typeof Origin>

export type PartialFile = {
  readonly path: string
  readonly length: () => number
  /** Undefined while there are no bytes. */
  readonly origin: () => Origin | undefined
  /** Drops all bytes; those that are appended next come from `origin`. */
  readonly restart: (origin: Origin) => Promise<void>
  readonly append: (chunk: Uint8Array) => Promise<void>
  /** Syncs and closes the file; the sha256 is in hexadecimal. */
  readonly finish: () => Promise<{ readonly bytes: number; readonly sha256: string }>
  readonly close: () => Promise<void>
}

/** Opens the partial file at `path` and hashes the bytes that are there. */
export async function openPartialFile(path: string): Promise<PartialFile> {
  const handle = await open(path, 'a+')
  let origin = await readOrigin(path)
  let length = 0
  let hash = createHash('sha256')

  async function truncate() {
    await handle.truncate(0)
    length = 0
    hash = createHash('sha256')
  }

  try {
    if (origin) length = await hashFile(path, hash)
    else await truncate()
  } catch (error) {
    await handle.close()
    throw error
  }

  return {
    path,
    length: () => length,
    origin: () => (length > 0 ? origin : undefined),
    async restart(from) {
      await truncate()
      await writeFile(originPath(path), JSON.stringify(from))
      origin = from
    },
    async append(chunk) {
      await writeAll(handle, chunk)
      hash.update(chunk)
      length += chunk.length
    },
    async finish() {
      await handle.sync()
      await handle.close()
      return { bytes: length, sha256: hash.digest('hex') }
    },
    close: () => handle.close(),
  }
}

/** The file with the origin of the bytes at `path`. */
export const originPath = (path: string) => `${path}.json`

/** Removes the partial file at `path` and its origin. */
export async function removePartialFile(path: string): Promise<void> {
  await rm(path, { force: true })
  await rm(originPath(path), { force: true })
}

/** Undefined if it is missing or damaged: the download then starts at its first byte. */
async function readOrigin(path: string): Promise<Origin | undefined> {
  const text = await readFile(originPath(path), 'utf8').catch(() => '')
  try {
    return Origin.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}

async function hashFile(path: string, hash: Hash): Promise<number> {
  let length = 0
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    hash.update(chunk)
    length += chunk.length
  }
  return length
}

/** Repeats `write`, which may write less than it is given. */
async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length; )
    at += (await handle.write(chunk, at, chunk.length - at)).bytesWritten
}
