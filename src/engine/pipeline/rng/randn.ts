/** The noise that an image starts from, equal to torch's for the same seed. */
import type { NoiseSource, PixelSize } from '../../../plan/plan.js'
import { latentChannels } from '../latents.js'
import { mersenneNormal } from './mt19937.js'
import { philoxNormal } from './philox.js'

/**
 * `count` normal values of torch.randn(count, float32) with a fresh generator of that device.
 * `seed` is an integer as for torch.Generator.manual_seed: 64 bits, negative in two's complement.
 */
export function randn(source: NoiseSource, count: number, seed: number | bigint): Float32Array {
  switch (source) {
    case 'torch-cuda':
      return philoxNormal(count, seed)
    case 'torch-cpu':
      return mersenneNormal(count, seed)
    default:
      return source satisfies never
  }
}

/** Noise as unpacked latents [16, H/8, W/8], in the references' order; see `packLatents`. */
export const startNoise = (
  source: NoiseSource,
  seed: number | bigint,
  { width, height }: PixelSize,
) => randn(source, (latentChannels * height * width) / 64, seed)
