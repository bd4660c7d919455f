/** A named model with its LoRA files located and its version computed. */
import { existsSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { invalidConfig } from '../errors.js'
import type { Variant } from '../plan/plan.js'
import {
  type CatalogEntry,
  type InputDefaults,
  type ModelName,
  nameOfFile,
  readEntry,
} from './entry.js'
import { digestFile } from './fingerprint.js'
import { digestContent, versionOf } from './version.js'

export type ModelLora = {
  /** The reference, as the catalog or a request names it. */
  readonly source: string
  /** The absolute path of a file on this machine; other LoRAs are downloaded. */
  readonly path?: string
  readonly scale: number
  /** Undefined for a file that has never been downloaded. */
  readonly sha256?: string
}

export type Model = ModelName & {
  readonly description: string
  readonly triggerWord?: string
  readonly base: Variant
  /** Merged in this order. */
  readonly loras: readonly ModelLora[]
  readonly defaults: InputDefaults
  /** 64 hexadecimal digits: the digest of name, base, LoRAs and defaults. */
  readonly version: string
  readonly versionAliases: readonly string[]
  readonly visibility: CatalogEntry['visibility']
  readonly createdAt: Date
  /** Markdown. */
  readonly readme?: string
  /** The path of its entry. */
  readonly file: string
}

/** Whether `id` is the version of `model` or one of its aliases. */
export const isVersionOf = ({ version, versionAliases }: Model, id: string) =>
  id === version || versionAliases.includes(id)

/** Bounded because every reply about the model contains the readme. */
export const maxReadmeBytes = 256 * 1024

/**
 * The model in the catalog's file `file`; `fingerprint` returns the fingerprint of a base. Throws
 * `config_invalid` naming the file and what is wrong with it.
 */
export async function openModel(
  file: string,
  fingerprint: (base: Variant) => string,
): Promise<Model> {
  const entry = readEntry(file, await readFile(file, 'utf8'))
  const { base, defaults, description, triggerWord, versionAliases, visibility } = entry
  const loras = await Promise.all(entry.loras.map((lora) => resolveLora(lora, file)))
  const pins = loras.map(({ source, sha256, scale }) => ({ pin: sha256 ?? source, scale }))
  const readme = await readReadme(readmeOf(file))
  const { owner, name } = nameOfFile(file)
  const digest = digestContent({ fingerprint: fingerprint(base), base, loras: pins, defaults })
  return {
    owner,
    name,
    description,
    ...(triggerWord !== undefined && { triggerWord }),
    base,
    loras,
    defaults,
    version: versionOf(`${owner}/${name}`, digest),
    // The digest was the version once: what clients kept goes on to work.
    versionAliases: [...versionAliases, digest],
    visibility,
    createdAt: entry.createdAt ? new Date(entry.createdAt) : (await stat(file)).mtime,
    ...(readme !== undefined && { readme }),
    file,
  }
}

/** The path of the readme of the model in `file`; it need not exist. */
export const readmeOf = (file: string) => file.replace(/\.json$/, '.md')

/**
 * Locates a LoRA. A missing or unreadable file is reported when it is used, so that it does not
 * make the whole catalog invalid.
 */
async function resolveLora(
  { file, source = '', scale, sha256 }: CatalogEntry['loras'][number],
  catalogFile: string,
): Promise<ModelLora> {
  if (file === undefined) return { source, scale, ...(sha256 !== undefined && { sha256 }) }
  const path = resolve(dirname(catalogFile), file)
  const digest = sha256 ?? (await digestFile(path).catch(() => undefined))
  return { source: file, path, scale, ...(digest !== undefined && { sha256: digest }) }
}

async function readReadme(path: string): Promise<string | undefined> {
  if (!existsSync(path)) return undefined
  const text = await readFile(path, 'utf8')
  if (text.length <= maxReadmeBytes) return text
  throw invalidConfig(
    `${path}: expected at most ${maxReadmeBytes} characters but it has ${text.length}`,
  )
}
