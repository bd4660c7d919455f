/**
 * The LoRAs of this server: those that the operator named, those that come with fluxd, and those
 * that predictions referred to, fetched once and kept as long as there is room.
 */
import { createHash } from 'node:crypto'
import { copyFile, stat } from 'node:fs/promises'
import { createFlights, type Waiter } from '../async/singleFlight.js'
import { FluxdError, invalidInput, invalidLora } from '../errors.js'
import { createDigests } from '../net/download/fileDigest.js'
import { removePart } from '../net/download/partialFile.js'
import { defaultPatience, type Patience } from '../net/download/resumable.js'
import { createGuardedClient } from '../net/guardedClient.js'
import { type AddressRule, allowHosts } from '../net/publicAddress.js'
import { createStore, type Held, type Place } from './blobStore.js'
import type { FindBuiltin } from './bundled.js'
import { createFetch, type Fetched, type Hosts } from './fetchLora.js'
import { type ListedLora, libraryFolder, listLoras } from './listing.js'
import { type LoraSource, parseLoraSource, showLora } from './reference.js'
import { checkHeader } from './validateFile.js'

export type LibrarySettings = {
  /** The library is the folder `loras` in it. */
  readonly dataDir: string
  readonly hosts: Hosts
  /** Hosts that may be reached although they are not public. */
  readonly allowedHosts: readonly string[]
  readonly loras: {
    /** Of one file. */
    readonly maxBytes: number
    readonly cacheBytes: number
    readonly minFreeBytes: number
  }
}

export type LibraryOptions = {
  readonly builtin?: FindBuiltin
  readonly allowAddress?: AddressRule
  readonly patience?: Patience
}

export type AcquireOptions = {
  readonly signal: AbortSignal
  /** Takes the lines of the prediction's log; a LoRA that is there already writes none. */
  readonly writeLine: (line: string) => void
  readonly onProgress?: (done: number, total: number | undefined) => void
}

export type AcquiredLora = {
  readonly path: string
  /** sha256 in hexadecimal. */
  readonly digest: string
  readonly source: 'disk' | 'network'
  readonly seconds: number
  /** The file stays where it is until this is called; calling it again does nothing. */
  readonly release: () => void
}

export type Library = {
  /**
   * The file that `reference` leads to, fetched if need be. Throws `lora_invalid`, which is the
   * prediction's error, or `canceled`.
   */
  readonly acquire: (reference: string, options: AcquireOptions) => Promise<AcquiredLora>
  /** The file at `path`, which is the operator's, as it is now. Throws `lora_invalid` when it cannot be read. */
  readonly open: (path: string) => Promise<AcquiredLora>
  /** Keeps what `reference` leads to under `name`, for as long as the name stays. */
  readonly add: (name: string, reference: string, options: AcquireOptions) => Promise<void>
  /** Keeps a copy of the file at `path` under `name`. */
  readonly addFile: (name: string, path: string) => Promise<void>
  /** Throws `not_found`; the file goes too, unless it is in use or has another name. */
  readonly remove: (name: string) => Promise<void>
  /** As `listLoras`. */
  readonly list: () => Promise<readonly (ListedLora & { readonly inUse: boolean })[]>
  /** The file of a named LoRA or of one that comes with fluxd. */
  readonly find: (name: string) => Promise<string | undefined>
  readonly close: () => Promise<void>
}

/** A reference: its key in the records, what it means, and how it may be shown. */
type Wanted = { readonly key: string; readonly source: LoraSource; readonly shown: string }

type Landed = Held & { readonly source: AcquiredLora['source'] }

const nothing = () => {}

/** The library in `settings.dataDir`, which several processes of one machine may share. */
export function createLibrary(
  settings: LibrarySettings,
  {
    builtin = () => undefined,
    allowAddress = allowHosts(settings.allowedHosts),
    patience = defaultPatience,
  }: LibraryOptions = {},
): Library {
  const { maxBytes, cacheBytes, minFreeBytes } = settings.loras
  const store = createStore(libraryFolder(settings), { quotaBytes: cacheBytes, minFreeBytes })
  const client = createGuardedClient({ allowAddress, stallTimeoutMs: patience.stallMs })
  const fetchWeights = createFetch({
    client,
    hosts: settings.hosts,
    maxBytes: Math.min(maxBytes, cacheBytes),
    patience,
  })
  const digestOf = createDigests()
  const flights = createFlights<Landed>((landed) => ({
    ...store.hold(landed)!,
    source: landed.source,
  }))

  async function acquire(
    reference: string,
    { signal, writeLine, onProgress = nothing }: AcquireOptions,
  ): Promise<AcquiredLora> {
    const startedAtMs = performance.now()
    const key = keyOf(reference)
    const there =
      (await findNamed(reference)) ?? (await findBuiltin(reference)) ?? (await findKept(key))
    const landed =
      there ?? (await fetchOnce(reference, key, { signal, report: writeLine, onProgress }))
    return toAcquired(landed, startedAtMs)
  }

  async function open(path: string): Promise<AcquiredLora> {
    const startedAtMs = performance.now()
    return toAcquired(await openFile(path), startedAtMs)
  }

  async function openFile(path: string): Promise<Landed> {
    return { path, digest: await digestOf(path), bytes: 0, source: 'disk', release: nothing }
  }

  async function findNamed(name: string): Promise<Landed | undefined> {
    const entry = isName(name) ? await store.names.read(name) : undefined
    if (!entry) return undefined
    const held = store.hold(entry)
    if (!held)
      throw invalidLora(
        `The file of the LoRA ${name} is gone: add it again with \`fluxd loras add\``,
      )
    await store.names.touch(name)
    return { ...held, source: 'disk' }
  }

  async function findBuiltin(name: string): Promise<Landed | undefined> {
    const path = builtin(name)
    return path === undefined ? undefined : openFile(path)
  }

  async function findKept(key: string): Promise<Landed | undefined> {
    const entry = await store.references.read(key)
    const held = entry && store.hold(entry)
    if (held) await store.references.touch(key)
    return held && { ...held, source: 'disk' }
  }

  function fetchOnce(reference: string, key: string, waiter: Waiter): Promise<Landed> {
    const wanted = { key, source: parseLoraSource(reference), shown: showLora(reference) }
    // It may have come between the look into the store and now.
    const start = async (all: Waiter) => (await findKept(key)) ?? fetchAndAdmit(wanted, all)
    return flights.join(key, waiter, start)
  }

  async function fetchAndAdmit(
    { key, source, shown }: Wanted,
    { signal, report, onProgress }: Waiter,
  ): Promise<Landed> {
    report(`free=${await store.freeBytes()}`)
    await store.makeRoom(0, report)
    report('Downloading weights')
    const startedAtMs = performance.now()
    const part = await store.parts.claim(key)
    try {
      const fetched = await fetchWeights(source, { part, signal, report, onProgress })
      const held = await admit(fetched, shown, { records: store.references, key }, report)
      await removePart(part)
      if (fetched.hubFile !== undefined)
        report(`Downloaded ${fetched.hubFile} from HuggingFace to ${held.path}`)
      const seconds = (performance.now() - startedAtMs) / 1000
      report(`Downloaded weights in ${seconds.toFixed(2)}s`)
      return { ...held, source: 'network' }
    } finally {
      store.parts.yield(part)
    }
  }

  async function admit(
    { path, digest, bytes }: Fetched,
    source: string,
    place: Place,
    report: (line: string) => void,
  ): Promise<Held> {
    try {
      checkHeader(path, source)
    } catch (error) {
      await removePart(path)
      throw error
    }
    return store.admit(path, { digest, bytes, source }, place, report)
  }

  async function add(name: string, reference: string, options: AcquireOptions): Promise<void> {
    checkName(name)
    const waiter = { onProgress: nothing, ...options, report: options.writeLine }
    const key = keyOf(reference)
    const named = await findNamed(reference)
    const path = named ? undefined : builtin(reference)
    if (path !== undefined) return addFile(name, path)
    const landed = named ?? (await findKept(key)) ?? (await fetchOnce(reference, key, waiter))
    const { digest, bytes, release } = landed
    await store.names.write(name, { digest, bytes, source: showLora(reference) })
    release()
  }

  async function addFile(name: string, path: string): Promise<void> {
    checkName(name)
    const part = await store.parts.claim(keyOf(`file:${path}`))
    try {
      await copyFile(path, part)
      const file = { path: part, digest: await digestOf(part), bytes: (await stat(part)).size }
      const place = { records: store.names, key: name }
      const { release } = await admit(file, path, place, nothing)
      release()
    } finally {
      await removePart(part)
      store.parts.yield(part)
    }
  }

  async function remove(name: string): Promise<void> {
    const entry = isName(name) ? await store.names.read(name) : undefined
    if (!entry) throw new FluxdError('not_found', `There is no LoRA named ${name}`)
    await store.names.remove(name)
    await store.discard(entry.digest)
  }

  async function list() {
    const listed = await listLoras(settings)
    return listed.map((lora) => ({ ...lora, inUse: store.isHeld(lora.digest) }))
  }

  async function find(name: string): Promise<string | undefined> {
    const held = (await findNamed(name)) ?? (await findBuiltin(name))
    held?.release()
    return held?.path
  }

  return { acquire, open, add, addFile, remove, list, find, close: client.close }
}

const toAcquired = (
  { path, digest, source, release }: Landed,
  startedAtMs: number,
): AcquiredLora => ({
  ...{ path, digest, source, release },
  seconds: (performance.now() - startedAtMs) / 1000,
})

/** The reference as it was given, as in the reference implementation: `a/b` and `a/b/` are two. */
const keyOf = (reference: string) => createHash('sha256').update(reference).digest('hex')

const isName = (name: string) => /^\w[\w.-]{0,63}(?:\/\w[\w.-]{0,63})?$/.test(name)

function checkName(name: string): void {
  if (!isName(name))
    throw invalidInput(
      `Expected a name such as watercolour or owner/watercolour but received ${JSON.stringify(name.slice(0, 200))}`,
    )
}
