/**
 * The LoRAs of this server: those that the operator named, the bundled ones, and those that
 * predictions referred to, which are downloaded once and kept until they are evicted.
 */
import { createHash } from 'node:crypto'
import { chmod, copyFile, stat } from 'node:fs/promises'
import { createSingleFlight, type Waiter } from '../async/singleFlight.js'
import { FluxdError, invalidInput, invalidLora } from '../errors.js'
import { createDigests } from '../net/download/fileDigest.js'
import { removePartialFile } from '../net/download/partialFile.js'
import { defaultRetryPolicy, type RetryPolicy } from '../net/download/resumable.js'
import { createGuardedClient } from '../net/guardedClient.js'
import type { ProxySettings } from '../net/proxy.js'
import { type AddressRule, allowHosts } from '../net/publicAddress.js'
import { redact } from '../net/redact.js'
import { createBlobStore, type EntryKey, type LeasedBlob } from './blobStore.js'
import type { FindBundled } from './bundled.js'
import { createFetch, type Fetched, type Hosts } from './fetchLora.js'
import { type ListedLora, listLoras, loraCacheFolder } from './listing.js'
import { type LoraSource, parseLoraSource } from './reference.js'
import { validateLoraFile } from './validateFile.js'

export type LoraCacheSettings = {
  /** The cache is the folder `loras` in it. */
  readonly dataDir: string
  readonly hosts: Hosts
  /** Hosts that may be connected to although they are not public. */
  readonly allowedHosts: readonly string[]
  readonly proxy?: ProxySettings
  readonly loras: {
    /** The largest file that is downloaded. */
    readonly maxBytes: number
    readonly cacheBytes: number
    readonly minFreeBytes: number
  }
}

export type LoraCacheOptions = {
  readonly findBundled?: FindBundled
  readonly allowAddress?: AddressRule
  readonly retry?: RetryPolicy
}

export type AcquireOptions = {
  readonly signal: AbortSignal
  /** Receives lines for the prediction's log; a cached LoRA writes none. */
  readonly writeLine: (line: string) => void
  readonly onProgress?: (done: number, total: number | undefined) => void
}

export type AcquiredLora = {
  readonly path: string
  /** sha256 in hexadecimal. */
  readonly digest: string
  readonly source: 'disk' | 'network'
  readonly seconds: number
  /** Ends the lease of the file; calling it again does nothing. */
  readonly release: () => void
}

export type LoraCache = {
  /**
   * The file that `reference` leads to, downloaded unless it is cached. Throws `lora_invalid`,
   * which becomes the prediction's error, or `canceled`.
   */
  readonly acquire: (reference: string, options: AcquireOptions) => Promise<AcquiredLora>
  /** The operator's file at `path` as it is now. Throws `lora_invalid` if it cannot be read. */
  readonly open: (path: string) => Promise<AcquiredLora>
  /** Stores the file that `reference` leads to under `name`; named files are not evicted. */
  readonly add: (name: string, reference: string, options: AcquireOptions) => Promise<void>
  /** Stores a copy of the file at `path` under `name`. */
  readonly addFile: (name: string, path: string) => Promise<void>
  /** Removes `name`, and the file unless it is leased or has another name. Throws `not_found`. */
  readonly remove: (name: string) => Promise<void>
  /** As `listLoras`. */
  readonly list: () => Promise<readonly (ListedLora & { readonly inUse: boolean })[]>
  /** The path of a named or bundled LoRA. */
  readonly find: (name: string) => Promise<string | undefined>
  readonly close: () => Promise<void>
}

/** A reference to download: its key in the index, its source, and its text without secrets. */
type LoraRequest = { readonly key: string; readonly source: LoraSource; readonly shown: string }

type CachedLora = LeasedBlob & { readonly source: AcquiredLora['source'] }

const nothing = () => {}

/** The LoRA cache in `settings.dataDir`, which several processes of one machine may share. */
export function createLoraCache(
  settings: LoraCacheSettings,
  {
    findBundled = () => undefined,
    allowAddress = allowHosts(settings.allowedHosts),
    retry = defaultRetryPolicy,
  }: LoraCacheOptions = {},
): LoraCache {
  const { maxBytes, cacheBytes, minFreeBytes } = settings.loras
  const blobs = createBlobStore(loraCacheFolder(settings), { quotaBytes: cacheBytes, minFreeBytes })
  const client = createGuardedClient({
    allowAddress,
    stallTimeoutMs: retry.stallMs,
    proxy: settings.proxy,
    trustedNames: Object.values(settings.hosts).map(({ url }) => new URL(url).hostname),
  })
  const fetchWeights = createFetch({
    client,
    hosts: settings.hosts,
    maxBytes: Math.min(maxBytes, cacheBytes),
    retry,
  })
  const digestOf = createDigests()
  const singleFlight = createSingleFlight<CachedLora>((lora) => ({
    ...blobs.lease(lora)!,
    source: lora.source,
  }))

  async function acquire(
    reference: string,
    { signal, writeLine, onProgress = nothing }: AcquireOptions,
  ): Promise<AcquiredLora> {
    const startedAtMs = performance.now()
    const key = keyOf(reference)
    const there =
      (await findNamed(reference)) ?? (await openBundled(reference)) ?? (await findKept(key))
    const lora =
      there ?? (await fetchOnce(reference, key, { signal, report: writeLine, onProgress }))
    return toAcquired(lora, startedAtMs)
  }

  async function open(path: string): Promise<AcquiredLora> {
    const startedAtMs = performance.now()
    return toAcquired(await openFile(path), startedAtMs)
  }

  async function openFile(path: string): Promise<CachedLora> {
    return { path, digest: await digestOf(path), bytes: 0, source: 'disk', release: nothing }
  }

  async function findNamed(name: string): Promise<CachedLora | undefined> {
    const entry = isName(name) ? await blobs.names.read(name) : undefined
    if (!entry) return undefined
    const leased = blobs.lease(entry)
    if (!leased)
      throw invalidLora(
        `The file of the LoRA ${name} is missing: add it again with \`fluxd loras add\``,
      )
    await blobs.names.touch(name)
    return { ...leased, source: 'disk' }
  }

  async function openBundled(name: string): Promise<CachedLora | undefined> {
    const path = findBundled(name)
    return path === undefined ? undefined : openFile(path)
  }

  async function findKept(key: string): Promise<CachedLora | undefined> {
    const entry = await blobs.references.read(key)
    const leased = entry && blobs.lease(entry)
    if (leased) await blobs.references.touch(key)
    return leased && { ...leased, source: 'disk' }
  }

  function fetchOnce(reference: string, key: string, waiter: Waiter): Promise<CachedLora> {
    const request = { key, source: parseLoraSource(reference), shown: redact(reference) }
    // Another caller may have finished the download since the cache was looked into.
    const start = async (all: Waiter) => (await findKept(key)) ?? fetchAndAdmit(request, all)
    return singleFlight.join(key, waiter, start)
  }

  async function fetchAndAdmit(
    { key, source, shown }: LoraRequest,
    { signal, report, onProgress }: Waiter,
  ): Promise<CachedLora> {
    report(`free=${await blobs.freeBytes()}`)
    await blobs.evictToFit(0, report)
    report('Downloading weights')
    const startedAtMs = performance.now()
    const part = await blobs.partialFiles.claim(key)
    try {
      const fetched = await fetchWeights(source, { part, signal, report, onProgress })
      const leased = await admit(fetched, shown, { entries: blobs.references, key }, report)
      await removePartialFile(part)
      if (fetched.hubFile !== undefined)
        report(`Downloaded ${fetched.hubFile} from HuggingFace to ${leased.path}`)
      const seconds = (performance.now() - startedAtMs) / 1000
      report(`Downloaded weights in ${seconds.toFixed(2)}s`)
      return { ...leased, source: 'network' }
    } finally {
      blobs.partialFiles.release(part)
    }
  }

  async function admit(
    { path, digest, bytes }: Fetched,
    source: string,
    place: EntryKey,
    report: (line: string) => void,
  ): Promise<LeasedBlob> {
    try {
      validateLoraFile(path, source)
    } catch (error) {
      await removePartialFile(path)
      throw error
    }
    return blobs.admit(path, { digest, bytes, source }, place, report)
  }

  async function add(name: string, reference: string, options: AcquireOptions): Promise<void> {
    checkName(name)
    const waiter = { onProgress: nothing, ...options, report: options.writeLine }
    const key = keyOf(reference)
    const named = await findNamed(reference)
    const path = named ? undefined : findBundled(reference)
    if (path !== undefined) return addFile(name, path)
    const lora = named ?? (await findKept(key)) ?? (await fetchOnce(reference, key, waiter))
    const { digest, bytes, release } = lora
    await blobs.names.write(name, { digest, bytes, source: redact(reference) })
    release()
  }

  async function addFile(name: string, path: string): Promise<void> {
    checkName(name)
    const part = await blobs.partialFiles.claim(keyOf(`file:${path}`))
    try {
      await copyFile(path, part)
      // A copy has the mode of the original.
      await chmod(part, 0o600)
      const file = { path: part, digest: await digestOf(part), bytes: (await stat(part)).size }
      const place = { entries: blobs.names, key: name }
      const { release } = await admit(file, path, place, nothing)
      release()
    } finally {
      await removePartialFile(part)
      blobs.partialFiles.release(part)
    }
  }

  async function remove(name: string): Promise<void> {
    const entry = isName(name) ? await blobs.names.read(name) : undefined
    if (!entry) throw new FluxdError('not_found', `There is no LoRA named ${name}`)
    await blobs.names.remove(name)
    await blobs.discard(entry.digest)
  }

  async function list() {
    const listed = await listLoras(settings)
    return listed.map((lora) => ({ ...lora, inUse: blobs.isLeased(lora.digest) }))
  }

  async function find(name: string): Promise<string | undefined> {
    const leased = (await findNamed(name)) ?? (await openBundled(name))
    leased?.release()
    return leased?.path
  }

  return { acquire, open, add, addFile, remove, list, find, close: client.close }
}

const toAcquired = (
  { path, digest, source, release }: CachedLora,
  startedAtMs: number,
): AcquiredLora => ({
  path,
  digest,
  source,
  release,
  seconds: (performance.now() - startedAtMs) / 1000,
})

/** The key of a reference, which is not normalised, as in weights.py: `a/b` and `a/b/` are two. */
const keyOf = (reference: string) => createHash('sha256').update(reference).digest('hex')

const isName = (name: string) => /^\w[\w.-]{0,63}(?:\/\w[\w.-]{0,63})?$/.test(name)

function checkName(name: string): void {
  if (!isName(name))
    throw invalidInput(
      'Expected a name such as watercolour or owner/watercolour but received ' +
        JSON.stringify(name.slice(0, 200)),
    )
}
