/** The MIME type of an image by its first bytes; undefined for anything else. */
export function sniffType(bytes: Uint8Array): string | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, 16))
  return signatures.find(([at, text]) => head.toString('latin1').startsWith(text, at))?.[2]
}

const signatures: readonly (readonly [at: number, text: string, type: string])[] = [
  [1, 'PNG\r\n', 'image/png'],
  [0, '\xff\xd8\xff', 'image/jpeg'],
  [8, 'WEBP', 'image/webp'],
  [0, 'GIF8', 'image/gif'],
  [4, 'ftypavif', 'image/avif'],
  [4, 'ftypavis', 'image/avif'],
  [0, 'II*\0', 'image/tiff'],
  [0, 'MM\0*', 'image/tiff'],
]
