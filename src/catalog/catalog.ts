/**
 * The named models of two folders: the bundled ones, which are read only, and the user's own. A
 * name may exist in one of them only.
 */
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { link, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createMutex } from '../async/mutex.js'
import { FluxdError, hasCode, invalidConfig, invalidInput } from '../errors.js'
import type { Variant } from '../plan/plan.js'
import { checkEntry, type EntryFields, isModelName, type ModelName, nameRule } from './entry.js'
import { fingerprintCheckpoint } from './fingerprint.js'
import { isVersionOf, type Model, openModel, readmeOf } from './model.js'
import { type ModelChanges, updateEntry } from './update.js'

export type Catalog = {
  readonly find: (owner: string, name: string) => Model | undefined
  /** The model with this version or, if there is none, the first by name with this alias. */
  readonly findVersion: (id: string) => Model | undefined
  /** Sorted by owner and name. */
  readonly list: () => readonly Model[]
  /**
   * Writes a new model into the user's folder. Throws `invalid_input`, or `conflict` for a taken
   * name.
   */
  readonly add: (name: ModelName, fields: EntryFields) => Promise<Model>
  /** Changes a model of the user's. Throws `not_found`, or `invalid_input` for a bundled one. */
  readonly update: (name: ModelName, changes: ModelChanges) => Promise<Model>
  /** As `removeModel`. */
  readonly remove: (name: ModelName) => Promise<void>
  /**
   * Reads the folders again. If the catalog has become invalid, throws and keeps the previous one.
   */
  readonly reload: () => Promise<void>
  /**
   * As `reload` if the user's entries or the LoRA files of models have changed since; else it only
   * reads file times.
   */
  readonly refresh: () => Promise<void>
}

export type CatalogFolders = {
  readonly bundled: string
  /** Need not exist. */
  readonly own: string
}

export type CatalogOptions = {
  readonly folders: CatalogFolders
  readonly checkpoints: Readonly<Record<Variant, string>>
}

/**
 * The models of both folders. Throws `config_invalid` naming the file that is wrong or the two that
 * clash, and `checkpoint_invalid` for a base that cannot be read.
 */
export async function openCatalog({ folders, checkpoints }: CatalogOptions): Promise<Catalog> {
  const fingerprint = rememberFingerprints(checkpoints)
  let seen = ''
  let models: ReadonlyMap<string, Model> = new Map()
  const exclusively = createMutex()
  await read()

  async function read() {
    const entries = await stampEntries(folders.own)
    models = await readFolders(folders, fingerprint)
    seen = entries + (await stampLoras(models))
  }

  // Reads follow each other, so that the last one decides.
  const reload = () => exclusively(read)

  async function refresh() {
    const stamp = (await stampEntries(folders.own)) + (await stampLoras(models))
    // The change may be in a read that is under way. Its failure goes to the caller that began it.
    if (stamp === seen) return exclusively(async () => {})
    seen = stamp
    return reload()
  }

  async function add(name: ModelName, fields: EntryFields): Promise<Model> {
    await reload()
    if (models.has(nameText(name))) throw nameTaken(name)
    await writeEntry(ownFile(folders, name), name, fields)
    await reload()
    return models.get(nameText(name))!
  }

  async function update(name: ModelName, changes: ModelChanges): Promise<Model> {
    await updateEntry(existingFile(folders, name), changes)
    await reload()
    return models.get(nameText(name))!
  }

  async function remove(name: ModelName): Promise<void> {
    await removeModel(folders, name)
    await reload()
  }

  return {
    find: (owner, name) => models.get(nameText({ owner, name })),
    findVersion(id) {
      const all = [...models.values()]
      return all.find(({ version }) => version === id) ?? all.find((each) => isVersionOf(each, id))
    },
    list: () => [...models.values()],
    add,
    update,
    remove,
    reload,
    refresh,
  }
}

/**
 * Deletes a model of the user's; its file may be invalid. Throws `not_found`, or `invalid_input`
 * for a bundled one.
 */
export async function removeModel(folders: CatalogFolders, name: ModelName): Promise<void> {
  const file = existingFile(folders, name)
  await rm(file)
  await rm(readmeOf(file), { force: true })
}

async function readFolders(
  { bundled, own }: CatalogFolders,
  fingerprint: (base: Variant) => string,
): Promise<ReadonlyMap<string, Model>> {
  const files = [...(await listFiles(bundled)), ...(await listFiles(own))]
  const models = await Promise.all(files.map((file) => openModel(file, fingerprint)))
  const byName = new Map<string, Model>()
  for (const model of models.sort((a, b) => (nameText(a) < nameText(b) ? -1 : 1))) {
    const taken = byName.get(nameText(model))
    if (taken)
      throw invalidConfig(
        `Expected one model ${nameText(model)} but there are ${taken.file} and ${model.file}`,
      )
    byName.set(nameText(model), model)
  }
  return byName
}

/**
 * A text that changes when an entry in `folder`, or a readme beside one, is added, removed or
 * changed.
 */
const stampEntries = async (folder: string) =>
  stampFiles((await listFiles(folder)).flatMap((file) => [file, readmeOf(file)]))

/** The same for the LoRA files of `models`. */
const stampLoras = (models: ReadonlyMap<string, Model>) =>
  stampFiles([...models.values()].flatMap(({ loras }) => loras.flatMap(({ path }) => path ?? [])))

async function stampFiles(files: readonly string[]): Promise<string> {
  const stamps = files.map(async (file) => {
    // A file that is missing or unreadable has a stamp, too: its return changes it.
    const stats = await stat(file).catch(() => undefined)
    return `${file} ${stats?.ino} ${stats?.size} ${stats?.mtimeMs}\n`
  })
  return (await Promise.all(stamps)).join('')
}

/** The entries of a catalog's folder; names with a leading dot are drafts. */
async function listFiles(folder: string): Promise<string[]> {
  if (!existsSync(folder)) return []
  const owners = (await readdir(folder, { withFileTypes: true })).filter(
    (owner) => owner.isDirectory() && !owner.name.startsWith('.'),
  )
  const files = await Promise.all(
    owners.map(async ({ name: owner }) =>
      (await readdir(join(folder, owner)))
        .filter((name) => name.endsWith('.json') && !name.startsWith('.'))
        .map((name) => join(folder, owner, name)),
    ),
  )
  return files.flat()
}

/** Writes an entry atomically and never over an existing one. */
async function writeEntry(file: string, name: ModelName, fields: EntryFields): Promise<void> {
  checkEntry(fields)
  const text = JSON.stringify({ ...fields, createdAt: new Date().toISOString() }, null, 2)
  const draft = join(dirname(file), `.${randomUUID()}`)
  await mkdir(dirname(file), { recursive: true })
  try {
    await writeFile(draft, `${text}\n`)
    await link(draft, file)
  } catch (error) {
    if (hasCode(error, 'EEXIST')) throw nameTaken(name)
    throw error
  } finally {
    await rm(draft, { force: true })
  }
}

const nameTaken = (name: ModelName) =>
  new FluxdError('conflict', `Expected a new name but there is a model ${nameText(name)}`)

/** Throws `invalid_input` for a name that must not become a path. */
function ownFile({ own }: CatalogFolders, name: ModelName): string {
  if (isModelName(name)) return fileIn(own, name)
  throw invalidInput(`Expected OWNER/NAME of ${nameRule} but received ${nameText(name)}`)
}

/** The file of a model of the user's. Throws as `removeModel`. */
function existingFile(folders: CatalogFolders, name: ModelName): string {
  const file = ownFile(folders, name)
  if (existsSync(fileIn(folders.bundled, name)))
    throw invalidInput(`Expected a model of your own but ${nameText(name)} comes with fluxd`)
  if (!existsSync(file)) throw new FluxdError('not_found', `There is no model ${nameText(name)}`)
  return file
}

const fileIn = (folder: string, { owner, name }: ModelName) => join(folder, owner, `${name}.json`)

const nameText = ({ owner, name }: ModelName) => `${owner}/${name}`

/** Computes each fingerprint once: the checkpoints are those that the engine was started with. */
function rememberFingerprints(checkpoints: CatalogOptions['checkpoints']) {
  const known = new Map<Variant, string>()
  return (base: Variant): string => {
    const fingerprint = known.get(base) ?? fingerprintCheckpoint(checkpoints[base])
    known.set(base, fingerprint)
    return fingerprint
  }
}
