/** The seed of a prediction: resolved once, when its request is made. */
import { randomInt } from 'node:crypto'

/**
 * The seed that was sent, or one of 16 random bits for none or a negative one (cog-flux:
 * `os.urandom(2)`).
 */
export const resolveSeed = ({ seed }: { readonly seed?: number | undefined }): number =>
  seed === undefined || seed < 0 ? randomInt(0x10000) : seed
