/** What a file is that should have been safetensors, from how it begins. */
import { isUtf8 } from 'node:buffer'
import { closeSync, openSync, readSync } from 'node:fs'

// The mark of a tar stands at byte 257.
const startBytes = 512

/** The first bytes of a file. */
export function readStart(path: string): Buffer {
  const start = Buffer.alloc(startBytes)
  const descriptor = openSync(path, 'r')
  try {
    return start.subarray(0, readSync(descriptor, start, 0, start.length, 0))
  } finally {
    closeSync(descriptor)
  }
}

/**
 * What a file that begins like this is instead of safetensors, as words that follow "it is";
 * undefined where its header may have the length that it says, up to `maxHeaderBytes`.
 */
export function otherKind(start: Buffer, maxHeaderBytes: number): string | undefined {
  const known = kindOf(start)
  if (known) return known
  if (start.length < 8) return `only ${start.length} bytes long`
  const length = start.readBigUInt64LE()
  return length > maxHeaderBytes
    ? `something else: its header would have ${length} bytes`
    : undefined
}

/**
 * What a file that begins like this is, as words that follow "it is"; undefined for safetensors,
 * whose ninth byte is a brace, and where nothing known begins so.
 */
function kindOf(start: Buffer): string | undefined {
  if (start[8] === 0x7b && start.readUInt32LE(4) === 0) return undefined
  const bytes = start.toString('latin1')
  if (bytes.startsWith('ustar', 257)) return 'an archive (tar)'
  const text = bytes
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .toLowerCase()
  return (
    kinds.find(([beginnings]) => beginnings.some((each) => bytes.startsWith(each)))?.[1] ??
    texts.find(([beginnings]) => beginnings.some((each) => text.startsWith(each)))?.[1] ??
    (isText(start) ? 'a text' : undefined)
  )
}

const kinds: readonly (readonly [readonly string[], string])[] = [
  [['PK\x03\x04'], 'a Python pickle or another zip archive (.pt, .ckpt, .bin, .zip)'],
  [['\x80\x02', '\x80\x03', '\x80\x04', '\x80\x05'], 'a Python pickle (.pt, .ckpt, .bin)'],
  [['GGUF', 'GGML', 'ggjt', 'lmgg'], 'a GGUF file'],
  [['\x1f\x8b'], 'an archive (gzip)'],
  [['BZh'], 'an archive (bzip2)'],
  [['\xfd7zXZ\0'], 'an archive (xz)'],
  [['\x28\xb5\x2f\xfd'], 'an archive (Zstandard)'],
  [['7z\xbc\xaf\x27\x1c'], 'an archive (7z)'],
  [['Rar!\x1a\x07'], 'an archive (RAR)'],
  [['\x89PNG', '\xff\xd8\xff', 'GIF8', 'RIFF'], 'an image or a video'],
  [['\x89HDF'], 'an HDF5 file'],
  [['\x93NUMPY'], 'a NumPy array'],
  [['%PDF'], 'a PDF'],
  [['\x7fELF', 'MZ'], 'a program'],
]

const texts: readonly (readonly [readonly string[], string])[] = [
  [['<!doctype html', '<html', '<head', '<body', '<!--', '<script'], 'a web page (HTML)'],
  [['<?xml', '<!doctype', '<error'], 'an XML text'],
  [['{', '['], 'a JSON text'],
  [['version https://git-lfs'], 'a Git LFS pointer (run `git lfs pull`)'],
]

/** Whether it is UTF-8, perhaps cut within a character, without control characters. */
const isText = (start: Buffer) =>
  start.length > 0 &&
  start.every((byte) => (byte >= 0x20 && byte !== 0x7f) || (byte >= 9 && byte <= 13)) &&
  [0, 1, 2, 3].some((cut) => isUtf8(start.subarray(0, start.length - cut)))
