/** Small images for tests. */
import sharp from 'sharp'

/** numpy.random.default_rng(3).integers(0, 256, (7, 11, 3), uint8). */
export const noisePicture = {
  size: { width: 11, height: 7 },
  rgb: new Uint8Array(
    Buffer.from(
      '+MK+z5Ma7RX10+8tBZ2fPDbsbS7HUiDNJAeG3jmSCJUODxYKkNAYGAcpC1U7aOFu4skInxobo3ohKclDRqbkKDKzALGJPw28/0BeCAicGR2dkr5z24cnZO1/SOOoFUmEEJmMa1CjPW4v5ZSqYW44lkrBPizu7+K8Ds25wUnuzfSgbkTJT2jBSFjF6lGUMAemlSh+pig2O7INmYfeO7/vSsGaUvBzp2EAudKwE0yxNPltXqLxxQVkTDL3piP6YmFQZ8EICz0tR+QdWqSpCT3NlecSoz4OwKd4c1G6MGt79cU0e3d5hsHE',
      'base64',
    ),
  ),
}

/** Raw rgb as a sharp image, to be encoded in any format. */
export const fromRgb = (
  rgb: Uint8Array,
  { width, height }: { readonly width: number; readonly height: number },
) => sharp(rgb, { raw: { width, height, channels: 3 } })

/** An image of one colour. */
export const flat = (width: number, height: number, background: string) =>
  sharp({ create: { width, height, channels: 3, background } })

export const toDataUri = (bytes: Uint8Array, type = 'image/png') =>
  `data:${type};base64,${Buffer.from(bytes).toString('base64')}`
