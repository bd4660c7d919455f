/** `fluxd models`: lists, shows, adds and removes the named models. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { openCatalog, removeModel } from '../catalog/catalog.js'
import { InputDefaults, isModelName, type ModelName, nameRule } from '../catalog/entry.js'
import { digestFile } from '../catalog/fingerprint.js'
import type { Model, ModelLora } from '../catalog/model.js'
import type { Config } from '../config/config.js'
import { FluxInput } from '../contract/input.js'
import { FluxdError, invalidInput } from '../errors.js'
import { findBundledIn } from '../loras/bundled.js'
import { createLoraCache, type LoraCacheSettings } from '../loras/loraCache.js'
import { validateLoraFile } from '../loras/validateFile.js'
import { redact } from '../net/redact.js'
import { variants } from '../plan/plan.js'
import { toTable } from './table.js'

export type NewModelFlags = {
  /** `REF` or `REF:SCALE`. */
  readonly lora?: readonly string[]
  readonly trigger?: string
  readonly base?: string
  /** `key=value`. */
  readonly default?: readonly string[]
  readonly description?: string
  /** Ids of versions elsewhere. */
  readonly versionAlias?: readonly string[]
}

export type ModelsContext = {
  readonly config: Pick<Config, 'catalog' | 'checkpoints'>
  readonly stdout: NodeJS.WritableStream
}

export type AddContext = ModelsContext & {
  readonly config: LoraCacheSettings & { readonly loras: { readonly builtin: string | undefined } }
  readonly signal: AbortSignal
  readonly stderr: NodeJS.WritableStream
}

/** Prints a line for each model, or all of them as JSON. */
export async function listModels(flags: { readonly json?: boolean }, context: ModelsContext) {
  const models = (await open(context)).list()
  context.stdout.write(flags.json ? toJson(models.map(toRecord)) : describeAll(models))
}

/** Prints what a model resolves to on this machine. Throws `not_found`. */
export async function showModel(
  text: string,
  flags: { readonly json?: boolean },
  context: ModelsContext,
) {
  const { owner, name } = readName(text)
  const model = (await open(context)).find(owner, name)
  if (!model) throw new FluxdError('not_found', `There is no model ${text}`)
  context.stdout.write(flags.json ? toJson(toRecord(model)) : describe(model, context))
}

/** Writes a model of the user's; its LoRAs are fetched and pinned. Throws for wrong flags. */
export async function addModel(text: string, flags: NewModelFlags, context: AddContext) {
  const name = readName(text)
  const base = readBase(flags.base)
  const fields = {
    ...(flags.description !== undefined && { description: flags.description }),
    ...(flags.trigger !== undefined && { triggerWord: flags.trigger }),
    base,
    defaults: {
      // Schnell is distilled for four steps; the contract's default, 28, is dev's.
      ...(base === 'schnell' && { num_inference_steps: 4 }),
      ...Object.fromEntries((flags.default ?? []).map(readDefault)),
    },
    ...(flags.versionAlias && { versionAliases: [...flags.versionAlias] }),
  }
  const catalog = await open(context)
  const loras = await pin((flags.lora ?? []).map(readLora), context)
  const { version } = await catalog.add(name, { ...fields, loras })
  context.stdout.write(`${text}  ${version}\n`)
}

/** Removes a model of the user's; its file may be invalid. */
export async function dropModel(text: string, { config, stdout }: ModelsContext) {
  await removeModel(config.catalog, readName(text))
  stdout.write(`removed ${text}\n`)
}

const open = ({ config }: ModelsContext) =>
  openCatalog({ folders: config.catalog, checkpoints: config.checkpoints })

function readName(text: string): ModelName {
  const [owner = '', name = '', ...rest] = text.split('/')
  if (rest.length === 0 && isModelName({ owner, name })) return { owner, name }
  throw invalidInput(`Expected a model as OWNER/NAME of ${nameRule} but received ${text}`)
}

function readBase(text = 'dev') {
  const base = variants.find((variant) => variant === text)
  if (base) return base
  throw invalidInput(`Expected --base to be ${variants.join(' or ')} but received ${text}`)
}

/** Reads KEY=VALUE; the value is taken as text where the field allows it, else as JSON. */
function readDefault(text: string): [string, unknown] {
  const [, key = '', value = ''] = /^(\w+)=(.+)$/.exec(text) ?? []
  const field = Object.entries(InputDefaults.shape).find(([name]) => name === key)?.[1]
  if (!field)
    throw invalidInput(
      'Expected --default as KEY=VALUE with one of ' +
        `${Object.keys(InputDefaults.shape).join(', ')} but received ${text}`,
    )
  const parsed = [value, parseJson(value)].map((each) => field.safeParse(each))
  const sound = parsed.find((each) => each.success && each.data !== undefined)
  if (sound) return [key, sound.data]
  throw invalidInput(`Expected a value that ${key} takes in --default but received ${value}`)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Not JSON: the caller reports the value that no reading of it suits.
    return undefined
  }
}

/** Reads `REF` or `REF:SCALE`; a reference that is also a file means the file. */
function readLora(text: string): ModelLora {
  const [, reference = text, scale = '1'] = /^(.+):(-?[\d.]+)$/.exec(text) ?? []
  const parsed = FluxInput.shape.lora_scale.safeParse(Number(scale))
  if (!parsed.success)
    throw invalidInput(`Expected the scale of --lora to be -1 to 3 but received ${scale}`)
  const path = resolve(reference)
  const isFile = statSync(path, { throwIfNoEntry: false })?.isFile() ?? false
  if (!isFile && /^\.{0,2}\//.test(reference))
    throw invalidInput(`Expected a file or a reference for --lora but there is no ${reference}`)
  return { source: isFile ? path : reference, scale: parsed.data, ...(isFile && { path }) }
}

/** The LoRAs with the digests of their files, which are fetched if need be. */
async function pin(loras: readonly ModelLora[], { config, signal, stderr }: AddContext) {
  const cache = createLoraCache(config, { findBundled: findBundledIn(config.loras.builtin) })
  const writeLine = (line: string) => {
    stderr.write(`${line}\n`)
  }
  const digestOf = async ({ source, path }: ModelLora) => {
    if (path === undefined) {
      const { digest, release } = await cache.acquire(source, { signal, writeLine })
      release()
      return digest
    }
    validateLoraFile(path, path)
    return digestFile(path)
  }
  try {
    const pinned = []
    for (const lora of loras) {
      const { source, path, scale } = lora
      const place = path === undefined ? { source } : { file: path }
      pinned.push({ ...place, scale, sha256: await digestOf(lora) })
    }
    return pinned
  } finally {
    await cache.close()
  }
}

const shownDigits = 12

function describeAll(models: readonly Model[]): string {
  const rows = models.map(({ owner, name, base, loras, triggerWord = '', version }) => [
    `${owner}/${name}`,
    base,
    String(loras.length),
    triggerWord,
    version.slice(0, shownDigits),
  ])
  return toTable([['MODEL', 'BASE', 'LORAS', 'TRIGGER', 'VERSION'], ...rows])
}

function describe(model: Model, { config }: ModelsContext): string {
  const { owner, name, base, description, triggerWord, defaults, version, versionAliases, file } =
    model
  const lines = [
    ['model', `${owner}/${name}`],
    ['description', description || 'none'],
    ['trigger', triggerWord ?? 'none'],
    ['base', `${base}, ${config.checkpoints[base]}`],
    ...model.loras.map((lora) => ['LoRA', describeLora(lora)]),
    ...Object.entries(defaults).map(([key, value]) => ['default', `${key}=${value}`]),
    ['version', version],
    ...versionAliases.map((alias) => ['alias', alias]),
    ['file', file],
  ]
  return lines.map(([label = '', text]) => `${label.padEnd(13)}${text}\n`).join('')
}

const describeLora = ({ source, path, scale, sha256 }: ModelLora) =>
  `${path ?? redact(source)} × ${scale}, ${sha256 ? `sha256 ${sha256}` : 'not downloaded yet'}`

/** A model for JSON: without its readme, which is long, and without the secrets of references. */
function toRecord({ readme: _, loras, ...rest }: Model) {
  return { ...rest, loras: loras.map((lora) => ({ ...lora, source: redact(lora.source) })) }
}

const toJson = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`
