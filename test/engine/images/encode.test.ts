/** Images as files: formats, and the quality that the contract allows and the encoder does not. */
import sharp from 'sharp'
import { expect, test } from 'vitest'
import { encodeImage } from '../../../src/engine/images/encode.js'

const size = { width: 32, height: 16 }
const rgb = Uint8Array.from({ length: 32 * 16 * 3 }, (_, i) => (i * 7) % 256)

test.each([
  ['webp', 'webp', 'image/webp'],
  ['jpg', 'jpeg', 'image/jpeg'],
  ['png', 'png', 'image/png'],
] as const)('%s is a file of that kind, at qualities 0 and 100', async (format, kind, mimeType) => {
  for (const quality of [0, 100]) {
    const image = await encodeImage(rgb, size, { format, quality })
    expect(image.mimeType).toBe(mimeType)
    expect(await sharp(image.bytes).metadata()).toMatchObject({ format: kind, ...size })
  }
})

test('the quality decides the bytes of webp and jpg, and none of png', async () => {
  for (const format of ['webp', 'jpg', 'png'] as const) {
    const [low, high] = await Promise.all(
      [0, 100].map((quality) => encodeImage(rgb, size, { format, quality })),
    )
    if (format === 'png') expect(low!.bytes).toEqual(high!.bytes)
    else expect(low!.bytes.length).toBeLessThan(high!.bytes.length)
  }
})
