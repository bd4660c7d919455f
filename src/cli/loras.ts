/** `fluxd loras`: adds, lists and removes the named LoRAs of this server. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Config } from '../config/config.js'
import { invalidInput } from '../errors.js'
import { findBundledIn } from '../loras/bundled.js'
import { type ListedLora, listLoras as readListing } from '../loras/listing.js'
import { createLoraCache, type LoraCache } from '../loras/loraCache.js'
import { showBytes, showDownload } from './progressBars.js'

export type LorasContext = {
  readonly config: Pick<Config, 'dataDir' | 'hosts' | 'allowedHosts' | 'loras'> &
    Partial<Pick<Config, 'proxy'>>
  readonly signal: AbortSignal
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WriteStream
}

/** Prints a line for each LoRA on disk, or all of them as JSON: first those with a name. */
export async function listLoras(
  flags: { readonly json?: boolean },
  { config, stdout }: Pick<LorasContext, 'config' | 'stdout'>,
): Promise<void> {
  const loras = await readListing(config)
  stdout.write(flags.json ? `${JSON.stringify(loras.map(toRecord), null, 2)}\n` : toLines(loras))
}

/** Stores the file `source`, or the file that the reference `source` leads to, under `name`. */
export function addLora(name: string, source: string, context: LorasContext) {
  return withLoraCache(context, async (cache) => {
    if (isFile(source)) await cache.addFile(name, resolve(source))
    else await fetchLora(cache, name, await expectReference(source, cache), context)
    context.stdout.write(`${name} is ${await cache.find(name)}\n`)
  })
}

/** Removes `name`, and its file if no other name has it. Throws `not_found`. */
export function removeLora(name: string, context: LorasContext) {
  return withLoraCache(context, async (cache) => {
    await cache.remove(name)
    context.stdout.write(`removed ${name}\n`)
  })
}

/** The path of the LoRA that `place` names: a file, or the name of a LoRA. */
export async function locateLora(place: string, context: LorasContext): Promise<string> {
  if (isFile(place)) return resolve(place)
  return withLoraCache(context, async (cache) => (await cache.find(place)) ?? resolve(place))
}

/** Returns `source` unless it looks like a path; apart from names, references contain a slash. */
async function expectReference(source: string, cache: LoraCache): Promise<string> {
  const isPath = !source.includes('/') || /^(\.{0,2}\/|~)/.test(source)
  if (!isPath || (await cache.find(source)) !== undefined) return source
  throw invalidInput(`Expected a file or a reference but there is no file ${source}`)
}

async function fetchLora(
  cache: LoraCache,
  name: string,
  source: string,
  { signal, stderr }: LorasContext,
) {
  const progress = showDownload(name, stderr)
  const writeLine = (line: string) => progress.note(line)
  try {
    await cache.add(name, source, { signal, writeLine, onProgress: progress.update })
  } finally {
    progress.stop()
  }
}

/** The user of the command may fetch from private addresses: the references are their own. */
async function withLoraCache<T>(
  { config }: LorasContext,
  work: (cache: LoraCache) => Promise<T>,
): Promise<T> {
  const findBundled = findBundledIn(config.loras.builtin)
  const cache = createLoraCache(config, { findBundled, allowAddress: () => true })
  try {
    return await work(cache)
  } finally {
    await cache.close()
  }
}

const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false

const toRecord = ({ name, source, digest, bytes, usedAt }: ListedLora) => ({
  ...(name !== undefined && { name }),
  source,
  digest,
  bytes,
  usedAt: usedAt.toISOString(),
})

function toLines(loras: readonly ListedLora[]): string {
  if (loras.length === 0) return 'There are no LoRAs yet; `fluxd loras add NAME SOURCE` adds one\n'
  const width = Math.max(...loras.map(({ name = '-' }) => name.length))
  return loras
    .map(
      ({ name = '-', source, digest, bytes, usedAt }) =>
        `${name.padEnd(width)}  ${digest.slice(0, 12)}  ${showBytes(bytes).padStart(8)}  ` +
        `${usedAt.toISOString().slice(0, 16)}  ${source}\n`,
    )
    .join('')
}
