/**
 * Decodes images and masks that users send. The bytes are untrusted: this runs in the engine
 * process, only known formats reach a decoder, and size and time are limited.
 * As with the reference's `PIL.Image.open(path).convert('RGB')`: the first frame, no EXIF rotation,
 * alpha dropped without compositing, colour profiles ignored.
 */
import sharp, { type Sharp } from 'sharp'
import { FluxdError } from '../../errors.js'
import type { PixelSize } from '../../plan/plan.js'
import { resize } from './resample.js'

// 8192²; three bytes for each are in memory, and the resized rows.
const maxPixels = 2 ** 26
const timeoutSeconds = 30

// jpeg, png, gif, and tiff in either byte order; webp and avif begin with a length.
const signatures = ['\xff\xd8\xff', '\x89PNG\r\n\x1a\n', 'GIF87a', 'GIF89a', 'II*\0', 'MM\0*']

/** Width and height as stored, from the header alone. Throws a sentence when it cannot be read. */
export const measureImage = (bytes: Uint8Array): Promise<PixelSize> =>
  withReader('image', bytes, async (image) => {
    const { width, height } = await image.metadata()
    return { width, height }
  })

/** An image stretched to `size`: [3, H, W] in [−1, 1]. */
export async function readImage(bytes: Uint8Array, size: PixelSize): Promise<Float32Array> {
  const image = await readRgb('image', bytes)
  const rgb = resize(image.rgb, image.size, size, 'lanczos')
  const pixels = size.width * size.height
  const planes = new Float32Array(3 * pixels)
  for (let i = 0; i < pixels; i++)
    for (let channel = 0; channel < 3; channel++)
      planes[channel * pixels + i] = (rgb[3 * i + channel]! / 255) * 2 - 1
  return planes
}

/**
 * A mask at the latents' resolution [H/8, W/8]: 1 where the grey is 128 or more (repaint), else 0.
 * The reference stretches it to `size` and then to the latents, to the nearest pixel each time;
 * here only the pixels that are left are looked up. Grey is Pillow's luma, not libvips's.
 */
export async function readMask(bytes: Uint8Array, size: PixelSize): Promise<Float32Array> {
  const { rgb, size: from } = await readRgb('mask', bytes)
  const [cols, rows] = [size.width / 8, size.height / 8]
  const mask = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++)
    for (let col = 0; col < cols; col++) {
      const y = nearest(8 * row, size.height, from.height)
      const x = nearest(8 * col, size.width, from.width)
      mask[row * cols + col] = luma(rgb, 3 * (y * from.width + x)) >= 128 ? 1 : 0
    }
  return mask
}

/** The source pixel under the centre of target pixel `index`. */
const nearest = (index: number, to: number, from: number) =>
  Math.min(Math.floor((index + 0.5) * (from / to)), from - 1)

/** (299 R + 587 G + 114 B)/1000 in 16 bits, as Pillow's `convert('L')`. */
const luma = (rgb: Uint8Array, at: number) =>
  (rgb[at]! * 19595 + rgb[at + 1]! * 38470 + rgb[at + 2]! * 7471 + 0x8000) >> 16

/** An image as H·W·3 bytes, row by row; messages call it `what`. */
export function readRgb(what: string, bytes: Uint8Array) {
  return withReader(what, bytes, async (image) => {
    // libvips would convert CMYK by a printer's profile.
    const space = (await image.metadata()).space === 'cmyk' ? 'cmyk' : 'srgb'
    const { data, info } = await image
      .removeAlpha()
      .pipelineColourspace(space)
      .toColourspace(space)
      .raw({ depth: 'uchar' })
      .timeout({ seconds: timeoutSeconds })
      .toBuffer({ resolveWithObject: true })
    const channels = space === 'cmyk' ? 4 : 3
    if (info.channels !== channels)
      throw unreadable(what, `it decodes to ${info.channels} channels instead of ${channels}`)
    const rgb: Uint8Array = space === 'cmyk' ? cmykToRgb(data) : data
    return { rgb, size: { width: info.width, height: info.height } }
  })
}

/** Without a profile: (255 − K) less C, M or Y of it, rounded as Pillow's `cmyk2rgb` does. */
function cmykToRgb(cmyk: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((cmyk.length / 4) * 3)
  for (let from = 0, to = 0; from < cmyk.length; from += 4) {
    const light = 255 - cmyk[from + 3]!
    for (let ink = 0; ink < 3; ink++) {
      const product = cmyk[from + ink]! * light + 128
      rgb[to++] = light - (((product >> 8) + product) >> 8)
    }
  }
  return rgb
}

async function withReader<T>(
  what: string,
  bytes: Uint8Array,
  read: (image: Sharp) => Promise<T>,
): Promise<T> {
  if (!isKnownFormat(bytes))
    throw unreadable(
      what,
      `only jpeg, png, webp, gif, avif and tiff are read, and it begins with ${showHead(bytes)}`,
    )
  try {
    return await read(
      sharp(bytes, { limitInputPixels: maxPixels, failOn: 'error', ignoreIcc: true }),
    )
  } catch (error) {
    if (error instanceof FluxdError) throw error
    throw unreadable(what, error instanceof Error ? toReason(error.message) : 'no reason')
  }
}

const unreadable = (what: string, reason: string) =>
  new FluxdError('invalid_input', `Expected ${what} to be a picture that can be read: ${reason}`)

/** The first line of the error of libvips, without a trailing colon. */
const toReason = (message: string) => message.split('\n', 1)[0]!.replace(/[\s:]+$/, '')

const showHead = (bytes: Uint8Array) =>
  JSON.stringify(
    Buffer.from(bytes.subarray(0, 12))
      .toString('latin1')
      .replace(/[^\x20-\x7e]/g, '·'),
  )

/** By the first bytes. Other formats of libvips (SVG, PDF, its own) are refused. */
function isKnownFormat(bytes: Uint8Array): boolean {
  const head = Buffer.from(bytes.subarray(0, 32)).toString('latin1')
  return (
    signatures.some((signature) => head.startsWith(signature)) ||
    /^RIFF.{4}WEBP|^.{4}ftyp.*avi[fs]/s.test(head)
  )
}
