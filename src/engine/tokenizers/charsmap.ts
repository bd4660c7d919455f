/**
 * SentencePiece's precompiled normalisation rules (T5: nmt_nfkc), as tokenizer.json carries them:
 * [uint32 LE trie size in bytes][trie: uint32 LE units of darts-clone][replacements, each + 0].
 * The trie maps byte sequences of UTF-8 to the offset of their replacement.
 * At each position the longest sequence wins; a character that starts none stays as it is.
 * Source: google/sentencepiece src/normalizer.cc, NormalizePrefix; s-yata/darts-clone darts.h.
 */
import { endianness } from 'node:os'
import { invalidCheckpoint } from '../../errors.js'

export type Charsmap = (text: string) => string

type Match = { readonly length: number; readonly replacement: number }

/** The normalisation that `base64` describes; `source` names the file in errors. */
export function readCharsmap(base64: string, source: string): Charsmap {
  const bytes = Buffer.from(base64, 'base64')
  const trieSize = bytes.length < 4 ? 0 : bytes.readUInt32LE(0)
  if (trieSize === 0 || trieSize % 4 !== 0 || 4 + trieSize > bytes.length)
    throw invalidCheckpoint(
      `${source}: expected a precompiled_charsmap that holds its trie but received ` +
        `${bytes.length} bytes`,
    )
  const trie = readUnits(bytes.subarray(4, 4 + trieSize))
  const replacements = bytes.subarray(4 + trieSize)
  return (text) => normalize(text, trie, replacements)
}

function readUnits(bytes: Buffer): Uint32Array {
  const copy = Buffer.from(Uint8Array.from(bytes).buffer)
  if (endianness() === 'BE') copy.swap32()
  return new Uint32Array(copy.buffer, copy.byteOffset, copy.length / 4)
}

function normalize(text: string, trie: Uint32Array, replacements: Uint8Array): string {
  const bytes = new TextEncoder().encode(text)
  const out: number[] = []
  let at = 0
  while (at < bytes.length) {
    const match = longestMatch(trie, bytes, at)
    if (match) {
      for (let i = match.replacement; replacements[i]; i++) out.push(replacements[i]!)
      at += match.length
    } else {
      for (const end = at + utf8Length(bytes[at]!); at < end; at++) out.push(bytes[at]!)
    }
  }
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(out))
}

/**
 * Walks the double array from its root. A unit holds: bits 0–7 label, bit 8 'a value follows',
 * bits 10–30 the offset to its children, shifted by 8 more where bit 9 is set. A value's unit has
 * bit 31.
 */
function longestMatch(trie: Uint32Array, bytes: Uint8Array, start: number): Match | undefined {
  let longest: Match | undefined
  let node = childOffset(trie[0]!)
  for (let i = start; i < bytes.length && bytes[i] !== 0; i++) {
    node ^= bytes[i]!
    const unit = trie[node] ?? 0
    if ((unit & 0x8000_00ff) !== bytes[i]) break
    node ^= childOffset(unit)
    if (unit & 0x100)
      longest = { length: i - start + 1, replacement: (trie[node] ?? 0) & 0x7fff_ffff }
  }
  return longest
}

const childOffset = (unit: number) => (unit >>> 10) << ((unit & 0x200) >>> 6)

function utf8Length(first: number): number {
  if (first < 0x80) return 1
  if (first < 0xe0) return 2
  return first < 0xf0 ? 3 : 4
}
