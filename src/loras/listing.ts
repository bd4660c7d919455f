/** What a library holds, for whoever only looks: nothing is made or changed. */
import { join } from 'node:path'
import { type KeyedEntry, openEntries } from './entries.js'

export type ListedLora = {
  /** Undefined for what only predictions referred to. */
  readonly name: string | undefined
  /** Where it came from, fit to be shown. */
  readonly source: string
  readonly digest: string
  readonly bytes: number
  readonly usedAt: Date
}

/** The library is the folder `loras` in `dataDir`. */
export const loraCacheFolder = ({ dataDir }: { readonly dataDir: string }) => join(dataDir, 'loras')

/**
 * Named LoRAs by name, then the others, the last used first; none where there is no library yet. Throws a
 * sentence where it cannot be read.
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
    ...named.sort((a, b) => a.key.localeCompare(b.key)).map((each) => describe(each.key, each)),
    ...referred.sort((a, b) => b.usedAtMs - a.usedAtMs).map((each) => describe(undefined, each)),
  ]
}

const describe = (
  name: string | undefined,
  { source, digest, bytes, usedAtMs }: KeyedEntry,
): ListedLora => ({ ...{ name, source, digest, bytes }, usedAt: new Date(usedAtMs) })
