/** Pictures on the command line: a path is as good as a URL. */
import { readFile } from 'node:fs/promises'
import { FluxdError } from '../errors.js'
import type { InputFlags } from './inputFlags.js'

/** The flags with files as data URIs, which is what an HTTP client would send. */
export async function withFileUris<F extends InputFlags>(flags: F): Promise<F> {
  return {
    ...flags,
    ...(flags.image !== undefined && { image: await toUri('--image', flags.image) }),
    ...(flags.mask !== undefined && { mask: await toUri('--mask', flags.mask) }),
  }
}

async function toUri(flag: string, place: string): Promise<string> {
  if (/^(https?|data):/i.test(place)) return place
  try {
    return `data:;base64,${await readFile(place, 'base64')}`
  } catch (cause) {
    throw new FluxdError(
      'invalid_input',
      `Expected ${flag} to be a file or URL but received ${place}`,
      {
        cause,
      },
    )
  }
}
