/** The content of a LoRA cache, read without making or changing anything. */
import { join } from 'node:path'
import { type KeyedEntry, openEntries } from './entries.js'

export type ListedLora = {
  /** Undefined for a LoRA that only predictions have referred to. */
  readonly name: string | undefined
  /** The reference that it came from, without secrets. */
  readonly source: string
  readonly digest: string
  readonly bytes: number
  readonly usedAt: Date
}

/** The folder of the LoRA cache. */
export const loraCacheFolder = ({ dataDir }: { readonly dataDir: string }) => join(dataDir, 'loras')

/**
 * Named LoRAs by name, then the others, the last used first; empty if there is no cache yet. Throws
 * `config_invalid` for a folder that cannot be read.
 */
export async function listLoras(settings: {
  readonly dataDir: string
}): Promise<readonly ListedLora[]> {
  const { names, references } = openEntries(loraCacheFolder(settings))
  const named = await names.list()
  const referred = (await references.list()).filter(
    ({ digest }) => !named.some((each) => each.digest === digest),
  )
  return [
    ...named.sort((a, b) => a.key.localeCompare(b.key)).map((each) => toListed(each.key, each)),
    ...referred.sort((a, b) => b.usedAtMs - a.usedAtMs).map((each) => toListed(undefined, each)),
  ]
}

const toListed = (
  name: string | undefined,
  { source, digest, bytes, usedAtMs }: KeyedEntry,
): ListedLora => ({ name, source, digest, bytes, usedAt: new Date(usedAtMs) })
