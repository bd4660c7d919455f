/** The check of a downloaded file before it enters the cache: it must be a safetensors file. */
import { closeSync, openSync, readSync } from 'node:fs'
import { FluxdError, invalidLora } from '../errors.js'
import { openSafetensors } from '../safetensors/read.js'

// A LoRA's header takes some hundred kilobytes, with a trainer's metadata a few megabytes. Parsing
// it blocks the event loop, so its size is bounded.
const maxHeaderBytes = 2 ** 24

/**
 * Throws `lora_invalid` unless the file at `path` has a sound safetensors header with tensors in
 * it; messages call the file `shown`. The tensors' values are not read.
 */
export function validateLoraFile(path: string, shown: string): void {
  const start = readStart(path)
  const refuse = (what: string) =>
    invalidLora(`Expected a safetensors file at ${shown} but it is ${what}`)
  if (start.length < 8) throw refuse(`only ${start.length} bytes long`)
  const headerBytes = start.readBigUInt64LE()
  if (headerBytes > BigInt(maxHeaderBytes))
    throw refuse(kindOf(start) ?? `something else: its header would have ${headerBytes} bytes`)
  try {
    if (openSafetensors(path).tensors.size > 0) return
  } catch (cause) {
    if (!(cause instanceof FluxdError)) throw cause
    const kind = kindOf(start)
    throw kind ? refuse(kind) : invalidLora(cause.message.replaceAll(path, shown), cause)
  }
  throw invalidLora(`Expected tensors in ${shown} but it holds none`)
}

function readStart(path: string): Buffer {
  const start = Buffer.alloc(512)
  const descriptor = openSync(path, 'r')
  try {
    return start.subarray(0, readSync(descriptor, start, 0, start.length, 0))
  } finally {
    closeSync(descriptor)
  }
}

/** The kind of file that begins with `start`, of those that are often linked to by mistake. */
function kindOf(start: Buffer): string | undefined {
  const text = start.toString('latin1').trimStart().toLowerCase()
  if (text.startsWith('ustar', 257)) return 'an archive'
  return kinds.find(([beginnings]) => beginnings.some((each) => text.startsWith(each)))?.[1]
}

const kinds: readonly (readonly [readonly string[], string])[] = [
  [['<!doctype', '<html', '<?xml', '<head', '<body'], 'a web page'],
  [['{', '['], 'a JSON text'],
  [['pk\x03\x04', '\x80\x02', '\x80\x03', '\x80\x04', '\x80\x05'], 'a Python pickle'],
  [['gguf'], 'a GGUF file'],
  [['\x1f\x8b'], 'an archive'],
  [['version https://git-lfs'], 'a Git LFS pointer'],
]
