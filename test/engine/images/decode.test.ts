/** Decoding of what users send, against what Pillow makes of it. */
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import { measureImage, readImage, readMask } from '../../../src/engine/images/decode.js'
import { flat, fromRgb, noisePicture } from './images.js'

const { rgb, size } = noisePicture
const noisePng = () => fromRgb(rgb, size).png().toBuffer()

/** [3, H, W] in [−1, 1] back to bytes, row by row. */
function toRgb(planes: Float32Array): Uint8Array {
  const pixels = planes.length / 3
  return Uint8Array.from(planes, (_, i) => {
    const value = planes[(i % 3) * pixels + Math.floor(i / 3)]!
    return Math.round((value + 1) * 127.5)
  })
}

describe('an image', () => {
  test('is 2·v/255 − 1, channel by channel', async () => {
    const planes = await readImage(await noisePng(), size)
    expect(toRgb(planes)).toEqual(rgb)
    expect(planes[0]).toBeCloseTo((2 * rgb[0]!) / 255 - 1, 6)
    expect(planes[77]).toBeCloseTo((2 * rgb[1]!) / 255 - 1, 6)
  })

  test.each(['jpeg', 'png', 'webp', 'gif', 'avif', 'tiff'] as const)(
    'may be %s',
    async (format) => {
      const bytes = await flat(40, 24, '#2040c0').toFormat(format).toBuffer()
      expect(await measureImage(bytes)).toEqual({ width: 40, height: 24 })
      const pixels = toRgb(await readImage(bytes, { width: 48, height: 32 }))
      expect(pixels).toHaveLength(48 * 32 * 3)
      for (const [i, level] of [0x20, 0x40, 0xc0].entries())
        expect(Math.abs(pixels[i]! - level)).toBeLessThan(6)
    },
  )

  test('is not rotated by its EXIF orientation', async () => {
    const bytes = await flat(40, 24, 'red').withMetadata({ orientation: 6 }).jpeg().toBuffer()
    expect(await measureImage(bytes)).toEqual({ width: 40, height: 24 })
    expect(await readImage(bytes, { width: 48, height: 32 })).toHaveLength(3 * 48 * 32)
  })

  test('loses its alpha; what was transparent keeps its colour', async () => {
    const rgba = Uint8Array.from({ length: 4 * 77 }, (_, i) =>
      i % 4 === 3 ? (i * 7) % 256 : rgb[3 * Math.floor(i / 4) + (i % 4)]!,
    )
    const bytes = await sharp(rgba, { raw: { ...size, channels: 4 } })
      .png()
      .toBuffer()
    const [with_, without] = [bytes, await noisePng()]
    const larger = { width: 16, height: 16 }
    expect(await readImage(with_, larger)).toEqual(await readImage(without, larger))
  })

  test('may be grey or of 16 bits', async () => {
    const grey = flat(16, 16, '#808080').toColourspace('b-w').png()
    expect([
      ...new Set(toRgb(await readImage(await grey.toBuffer(), { width: 16, height: 16 }))),
    ]).toEqual([128])
    const deep = await flat(16, 16, '#ff8000').toColourspace('rgb16').png().toBuffer()
    expect((await sharp(deep).metadata()).depth).toBe('ushort')
    expect([...toRgb(await readImage(deep, { width: 16, height: 16 })).subarray(0, 3)]).toEqual([
      255, 128, 0,
    ])
  })

  test('of CMYK has the colours that Pillow gives it', async () => {
    // numpy.random.default_rng(3).integers(0, 256, (2, 3, 4), uint8) as a tiff of CMYK, and what
    // convert('RGB') makes of it in Pillow 12.3.
    const bytes = Buffer.from(
      'SUkqACYAAACAPhhL5npMNO0KvVpu8WgVOp8eDZ2G0XMcpCBmwEAKAAABAwABAAAAAwAAAAEBAwABAAAAAgAAAAIBAwAEAAAApAAAAAMBAwABAAAABQAAAAYBAwABAAAABQAAABEBBAABAAAACAAAABUBAwABAAAABAAAABYBAwABAAAAAgAAABcBBAABAAAAHgAAABwBAwABAAAAAQAAAAAAAAAIAAgACAAIAA==',
      'base64',
    )
    expect([...toRgb(await readImage(bytes, { width: 3, height: 2 }))]).toEqual([
      1, 11, 12, 99, 210, 17, 8, 36, 13, 191, 75, 73, 165, 16, 120, 11, 34, 44,
    ])
  })

  test('of several frames is its first', async () => {
    const frames = Buffer.concat([Buffer.alloc(768, 200), Buffer.alloc(768, 20)])
    const bytes = await sharp(frames, {
      raw: { width: 16, height: 32, channels: 3, pageHeight: 16 },
    })
      .gif()
      .toBuffer()
    expect(await measureImage(bytes)).toEqual({ width: 16, height: 16 })
    expect(toRgb(await readImage(bytes, { width: 16, height: 16 }))[0]).toBe(200)
  })

  test.each([
    [
      'empty',
      () => Buffer.alloc(0),
      /only jpeg, png, webp, gif, avif and tiff are read, and it begins with ""$/,
    ],
    ['HTML', () => Buffer.from('<!doctype html><p>not found'), /begins with "<!doctype ht"$/],
    [
      'SVG',
      () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
      /only jpeg/,
    ],
    [
      'cut off',
      async () => (await noisePng()).subarray(0, 150),
      /Expected image to be a picture that can be read: .+/,
    ],
    [
      'only a head',
      () => Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
      /Expected image to be a picture that can be read: .*[^:\s]$/,
    ],
    ['a bomb', async () => bomb(await noisePng()), /pixel limit/],
  ])('that is %s is refused with a sentence', async (_, make, message) => {
    const bytes = await make()
    const failure = { code: 'invalid_input', message: expect.stringMatching(message) }
    await expect(readImage(bytes, { width: 16, height: 16 })).rejects.toMatchObject(failure)
  })

  test('that is too large is refused by its header', async () => {
    await expect(measureImage(bomb(await noisePng()))).rejects.toThrow(/pixel limit/)
  })
})

/** A png whose header says 60,000 × 60,000. */
function bomb(png: Buffer): Buffer {
  const bytes = Buffer.from(png)
  bytes.writeUInt32BE(60_000, 16)
  bytes.writeUInt32BE(60_000, 20)
  bytes.writeUInt32BE(crc32(bytes.subarray(12, 29)), 29)
  return bytes
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

describe('a mask', () => {
  // (numpy.asarray(image.resize(size, NEAREST).convert('L'))[::8, ::8] / 255 >= 0.5) in Pillow 12.3.
  test.each([
    [{ width: 32, height: 16 }, '10000101'],
    [
      { width: 160, height: 96 },
      '111100110000000000001111001100000000000000110000111000011110001100001110000111100000000000111111100000000000001111111000000011000001111111100000110000000111111100001100000001111111001100111100000001100011001111000000011011110011001000011001',
    ],
  ])('at %o is that of Pillow', async (target, want) => {
    expect([...(await readMask(await noisePng(), target))].join('')).toBe(want)
  })

  test.each([
    ['#7f7f7f', 0],
    ['#808080', 1],
    // Green alone counts 0.587.
    ['#00d900', 0],
    ['#00db00', 1],
  ])('of %s is %i', async (colour, want) => {
    const bytes = await flat(64, 64, colour).png().toBuffer()
    expect([...(await readMask(bytes, { width: 16, height: 16 }))]).toEqual([
      want,
      want,
      want,
      want,
    ])
  })

  test('that is no image says so', async () => {
    await expect(readMask(Buffer.from('mask'), size)).rejects.toThrow(
      /^Expected mask to be a picture/,
    )
  })
})
