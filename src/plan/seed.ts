import { randomInt } from 'node:crypto'

/** A random seed of 16 bits, as the reference draws it (cog-flux: `os.urandom(2)`). */
export const drawSeed = () => randomInt(0x10000)
