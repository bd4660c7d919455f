/** `fluxd loras`: the LoRAs of this server, by name. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Config } from '../config/config.js'
import { invalidInput } from '../errors.js'
import { findBundledIn } from '../loras/bundled.js'
import { type ListedLora, listLoras as readListing } from '../loras/listing.js'
import { createLoraCache, type LoraCache } from '../loras/loraCache.js'
import { showBytes } from './downloadBars.js'
import { showTransfer } from './transferBar.js'

export type LorasContext = {
  readonly config: Pick<Config, 'dataDir' | 'hosts' | 'allowedHosts' | 'loras'>
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

/** Keeps the file `source`, or what the reference `source` leads to, under `name`. */
export function addLora(name: string, source: string, context: LorasContext) {
  return withLoraCache(context, async (cache) => {
    if (isFile(source)) await cache.addFile(name, resolve(source))
    else await fetchLora(cache, name, await expectReference(source, cache), context)
    context.stdout.write(`${name} is ${await cache.find(name)}\n`)
  })
}

/** Forgets `name`, and removes its file if nothing else needs it. Throws `not_found`. */
export function removeLora(name: string, context: LorasContext) {
  return withLoraCache(context, async (cache) => {
    await cache.remove(name)
    context.stdout.write(`removed ${name}\n`)
  })
}

/** The file that `place` is: a path, or the name of a LoRA. */
export async function locateLora(place: string, context: LorasContext): Promise<string> {
  if (isFile(place)) return resolve(place)
  return withLoraCache(context, async (cache) => (await cache.find(place)) ?? resolve(place))
}

/** But for names, no reference is without a slash or begins as a path does. */
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
  const transfer = showTransfer(name, stderr)
  const writeLine = (line: string) => transfer.note(line)
  try {
    await cache.add(name, source, { signal, writeLine, onProgress: transfer.update })
  } finally {
    transfer.stop()
  }
}

/** Whoever runs the command may reach every server that their machine reaches. */
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
  ...{ source, digest, bytes },
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
