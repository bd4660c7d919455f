/**
 * The version id of a named model: 64 hexadecimal digits that identify base, LoRAs and defaults.
 */
import { createHash } from 'node:crypto'
import type { Variant } from '../plan/plan.js'
import type { InputDefaults } from './entry.js'

export type Resolution = {
  /** The fingerprint of the base checkpoint; see fingerprint.ts. */
  readonly fingerprint: string
  readonly base: Variant
  /**
   * In order of merging; `pin` is the file's sha256, or the reference of a file that has never been
   * downloaded.
   */
  readonly loras: readonly { readonly pin: string; readonly scale: number }[]
  readonly defaults: InputDefaults
}

/** sha256 over the canonical JSON of what the model resolves to; the same on every machine. */
export function digestContent({ fingerprint, base, loras, defaults }: Resolution): string {
  const pins = loras.map(({ pin, scale }) => ({ pin, scale }))
  return sha256(canonicalJson({ fingerprint, base, loras: pins, defaults }))
}

/**
 * The version id of the model `name` (`owner/name`) with this content. Clients send the id alone,
 * so that models of equal content need ids of their own.
 */
export const versionOf = (name: string, contentDigest: string) =>
  sha256(`${name}\n${contentDigest}`)

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

/** JSON with sorted keys. */
const canonicalJson = (value: unknown): string =>
  JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  )
