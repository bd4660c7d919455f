/** Files inside their own URL: `data:[<type>][;base64],<data>` (RFC 2397). */
import { invalidInput } from '../errors.js'

/**
 * The bytes of a data URI, base64 or percent-encoded. Throws `invalid_input`, quoting its head
 * only.
 */
export function decodeDataUri(uri: string, maxBytes: number): Uint8Array {
  const comma = uri.indexOf(',')
  const shown = uri.slice(0, Math.min(comma < 0 ? uri.length : comma, 64))
  if (comma < 0)
    throw invalidInput(`Expected a comma and data in the data URI but received ${shown}…`)
  const isBase64 = /;\s*base64\s*$/i.test(uri.slice(0, comma))
  const longest = isBase64 ? Math.ceil((4 * maxBytes) / 3) + 4 : 3 * maxBytes
  if (uri.length - comma > longest) throw tooLarge(maxBytes)
  const text = unescapePercent(uri.slice(comma + 1))
  const bytes = isBase64 ? Buffer.from(text.toString('latin1'), 'base64') : text
  if (bytes.length > maxBytes) throw tooLarge(maxBytes)
  if (bytes.length === 0) throw invalidInput(`Expected data in the data URI but received ${shown},`)
  return bytes
}

const longestHead = 256

/**
 * The head (`data:…;base64,`) and the bytes of a data URI, if they can be joined to exactly the
 * same URI again; undefined for other spellings.
 */
export function splitDataUri(uri: string): { head: string; bytes: Buffer } | undefined {
  const head = /^data:[^,]*;base64,/i.exec(uri.slice(0, longestHead))?.[0]
  if (head === undefined) return undefined
  const text = uri.slice(head.length)
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? { head, bytes } : undefined
}

const tooLarge = (maxBytes: number) =>
  invalidInput(`Expected a data URI of at most ${maxBytes} bytes but received a longer one`)

/** UTF-8 bytes of `text`, with each %XX as the byte that it names; a stray % is kept. */
function unescapePercent(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8')
  if (!text.includes('%')) return bytes
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] === 0x25 ? hexByte(bytes, at + 1) : undefined
    bytes[length++] = byte ?? bytes[at]!
    if (byte !== undefined) at += 2
  }
  return bytes.subarray(0, length)
}

function hexByte(bytes: Buffer, at: number): number | undefined {
  const digits = bytes.toString('latin1', at, at + 2)
  return /^[0-9a-f]{2}$/i.test(digits) ? Number.parseInt(digits, 16) : undefined
}
