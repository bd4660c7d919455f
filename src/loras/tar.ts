/**
 * The one .safetensors of a tar, as Replicate's trainers pack it. No entry is extracted to the path
 * in its name: the .safetensors goes to a path that the caller chooses, the others are skipped.
 */
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { type ExtractEvents, extract } from 'tar-stream'
import { FluxdError, invalidLora } from '../errors.js'

type Entry = ExtractEvents['entry'][1]

export type Unpacked = { readonly bytes: number; readonly sha256: string }

// Bytes that a tar may hold besides the weights: a config, captions, samples.
const otherBytes = 2 ** 28
const maxEntries = 10_000

/**
 * Writes the only .safetensors among the entries of `tar` to `path` while it is read. A
 * gzip-compressed tar is recognised by its first bytes. `place` is what messages call the tar:
 * `tarball` or `data URI`. Throws `lora_invalid` when there is none or more than one, when the tar
 * is damaged, and when what it unpacks to is larger than `maxBytes` allows.
 */
export async function unpackSafetensors(
  tar: Readable,
  path: string,
  place: 'tarball' | 'data URI',
  maxBytes: number,
  signal: AbortSignal,
): Promise<Unpacked> {
  try {
    const found = await unpackOnly(tar, path, place, maxBytes, signal)
    if (found) return found
  } catch (error) {
    throw toLoraError(error, place, signal)
  } finally {
    tar.destroy()
  }
  throw invalidLora(`No .safetensors file found in ${place}`)
}

async function unpackOnly(
  tar: Readable,
  path: string,
  place: string,
  maxBytes: number,
  signal: AbortSignal,
): Promise<Unpacked | undefined> {
  const { head, whole } = await peek(tar)
  const entries = extract()
  const stages = [...decoders(head, place), limit(maxBytes + otherBytes, place), entries]
  const packed = pipeline([whole, ...stages], { signal })
  // Awaited at the end. A failure in the loop comes first, and then this one has the same cause.
  packed.catch(() => {})
  let found: Unpacked | undefined
  let count = 0
  for await (const entry of entries) {
    if (++count > maxEntries) throw damaged(place, `it has more than ${maxEntries} entries`)
    if (!isSafetensors(entry)) {
      entry.resume()
      continue
    }
    if (found) throw invalidLora(`Multiple .safetensors files found in ${place}`)
    found = await write(entry, path, maxBytes, place, signal)
  }
  await packed
  return found
}

const isSafetensors = ({ header }: Entry) =>
  header.type === 'file' && header.name.endsWith('.safetensors')

async function write(
  entry: Entry,
  path: string,
  maxBytes: number,
  place: string,
  signal: AbortSignal,
): Promise<Unpacked> {
  const hash = createHash('sha256')
  const bytes = entry.header.size ?? 0
  if (bytes > maxBytes)
    throw damaged(place, `its .safetensors has ${bytes} bytes and at most ${maxBytes} are taken`)
  const hashing = new Transform({
    transform(chunk: Buffer, _, done) {
      hash.update(chunk)
      done(null, chunk)
    },
  })
  await pipeline(entry, hashing, createWriteStream(path, { flush: true }), { signal })
  return { bytes, sha256: hash.digest('hex') }
}

const magics: readonly (readonly [string, string])[] = [
  ['BZh', 'bzip2'],
  ['\xfd7zXZ\0', 'xz'],
  ['\x28\xb5\x2f\xfd', 'Zstandard'],
]

function decoders(head: Buffer, place: string): Transform[] {
  const start = head.toString('latin1')
  if (start.startsWith('\x1f\x8b')) return [createGunzip()]
  const other = magics.find(([magic]) => start.startsWith(magic))?.[1]
  if (other)
    throw damaged(place, `it is compressed with ${other} and only plain and gzip ones are read`)
  return []
}

/** Refuses more than `maxBytes` unpacked bytes: a few kilobytes of gzip can hold terabytes. */
function limit(maxBytes: number, place: string): Transform {
  let passed = 0
  return new Transform({
    transform(chunk: Buffer, _, done) {
      passed += chunk.length
      if (passed > maxBytes) done(damaged(place, `it unpacks to more than ${maxBytes} bytes`))
      else done(null, chunk)
    },
  })
}

/** The first chunk of a stream, and a stream of all its bytes. */
async function peek(stream: Readable): Promise<{ head: Buffer; whole: Readable }> {
  const iterator = stream[Symbol.asyncIterator]()
  const first = await iterator.next()
  const head: Buffer = first.done ? Buffer.alloc(0) : first.value
  async function* whole() {
    yield head
    yield* { [Symbol.asyncIterator]: () => iterator }
  }
  return { head, whole: Readable.from(whole()) }
}

const damaged = (place: string, fault: string) =>
  invalidLora(`Expected a tar in the ${place} but ${fault}`)

function toLoraError(error: unknown, place: string, signal: AbortSignal): unknown {
  if (error instanceof FluxdError) return error
  if (signal.aborted) return new FluxdError('canceled', 'Unpacking was canceled', { cause: error })
  const fault = error instanceof Error ? error.message : String(error)
  return damaged(place, `it cannot be read: ${fault}`)
}
