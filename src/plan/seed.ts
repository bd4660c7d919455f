/** The seed of a prediction: drawn once, when its request is made. */
import { randomInt } from 'node:crypto'

/** A seed of 16 bits is drawn where none was sent, or a negative one (cog-flux: `os.urandom(2)`). */
export const resolveSeed = ({ seed }: { readonly seed?: number | undefined }): number =>
  seed === undefined || seed < 0 ? randomInt(0x10000) : seed
