/** `fluxd loras`: adds, lists and removes the named LoRAs of this server. */
import { statSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import type { Config } from '../config/config.js'
import { makePrivate } from '../config/privateFolder.js'
import { invalidInput } from '../errors.js'
import { findBundledIn } from '../loras/bundled.js'
import { type ListedLora, listLoras as readListing } from '../loras/listing.js'
import { type AcquireOptions, createLoraCache, type LoraCache } from '../loras/loraCache.js'
import { redact } from '../net/redact.js'
import type { LoraFile } from '../plan/plan.js'
import type { LoraFlag } from './inputFlags.js'
import { showBytes, showDownload } from './progressBars.js'
import { toTable } from './table.js'

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
    else {
      const reference = await expectReference(source, cache)
      await withProgress(name, context, (options) => cache.add(name, reference, options))
    }
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

export type AcquiredLoras = {
  readonly loras: readonly LoraFile[]
  /** Ends the leases of cached files. */
  readonly release: () => Promise<void>
}

/**
 * The files of `flags`: paths as they are, names and references by the cache, downloaded if need
 * be.
 */
export async function acquireLoras(
  flags: readonly LoraFlag[],
  context: LorasContext,
): Promise<AcquiredLoras> {
  const toFile = ({ place, scale }: LoraFlag): LoraFile => ({
    name: basename(place),
    path: resolve(place),
    scale,
  })
  if (flags.every(({ place }) => isFile(place)))
    return { loras: flags.map(toFile), release: async () => {} }
  makePrivate(context.config.dataDir)
  const cache = openCache(context)
  const loras: LoraFile[] = []
  const leases: (() => void)[] = []
  const release = async () => {
    for (const end of leases) end()
    await cache.close()
  }
  try {
    for (const flag of flags) {
      if (isFile(flag.place)) loras.push(toFile(flag))
      else {
        const source = await expectReference(flag.place, cache)
        const lora = await withProgress(redact(source), context, (options) =>
          cache.acquire(source, options),
        )
        leases.push(lora.release)
        loras.push({ name: redact(source), path: lora.path, scale: flag.scale })
      }
    }
    return { loras, release }
  } catch (error) {
    await release()
    throw error
  }
}

/** Returns `source` unless it looks like a path; apart from names, references contain a slash. */
async function expectReference(source: string, cache: LoraCache): Promise<string> {
  const isPath = !source.includes('/') || /^(\.{0,2}\/|~)/.test(source)
  if (!isPath || (await cache.find(source)) !== undefined) return source
  throw invalidInput(`Expected a file or a reference but there is no file ${source}`)
}

/** Runs `work`, a download of `name`, with its progress on stderr. */
async function withProgress<T>(
  name: string,
  { signal, stderr }: LorasContext,
  work: (options: AcquireOptions) => Promise<T>,
): Promise<T> {
  const progress = showDownload(name, stderr)
  const writeLine = (line: string) => progress.note(line)
  try {
    return await work({ signal, writeLine, onProgress: progress.update })
  } finally {
    progress.stop()
  }
}

/** The user of the command may fetch from private addresses: the references are their own. */
const openCache = ({ config }: LorasContext): LoraCache =>
  createLoraCache(config, {
    findBundled: findBundledIn(config.loras.builtin),
    allowAddress: () => true,
  })

async function withLoraCache<T>(
  context: LorasContext,
  work: (cache: LoraCache) => Promise<T>,
): Promise<T> {
  const cache = openCache(context)
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
  return toTable([
    ['NAME', 'SHA-256', 'SIZE', 'USED', 'SOURCE'],
    ...loras.map(({ name = '-', source, digest, bytes, usedAt }) => [
      name,
      digest.slice(0, 12),
      showBytes(bytes),
      usedAt.toISOString().slice(0, 16),
      source,
    ]),
  ])
}
