/**
 * The tensors of a LoRA file by the module that they change. Keys that change nothing are set
 * aside; what is wrong with the others is collected, so that one reader stops at the first fault
 * and another lists them all.
 */
import { type FluxdError, invalidLora } from '../../../errors.js'
import type { SafetensorsFile, TensorSlice } from '../../../safetensors/read.js'
import type { ClipParams, FluxParams } from '../../flux/params.js'
import type { Group } from './deltas.js'
import { describeForeignKey, isControlKey, isOtherKind } from './foreign.js'
import { findInert, isNoLayer, isOfUnmergedPart } from './ignored.js'
import { hasRole, type LoraKey, parseKey, type Role, type Vocabulary } from './keys.js'
import { clipModules, transformerModules } from './modules.js'

/** The networks a LoRA may change; without `clip` its CLIP part is ignored. */
export type LoraBase = { readonly transformer: FluxParams; readonly clip?: ClipParams }

/** A key that cannot be read; why is found out when it is asked for, as there may be many. */
export type KeyFault = { readonly name: string; readonly error: () => FluxdError }

export type Grouped = {
  readonly groups: readonly Group[]
  /** Keys of parts that are not merged, and keys that change nothing. */
  readonly ignored: readonly string[]
  /** Keys that name no layer, the most telling first. */
  readonly unmatched: readonly KeyFault[]
  /** Keys of a tensor that the file holds under two names. */
  readonly twice: readonly KeyFault[]
  /** PEFT's names of the adapters that the file holds. */
  readonly adapters: readonly string[]
}

/** Every key of `file`, as seen from the networks of `base`. */
export function groupKeys(file: SafetensorsFile, base: LoraBase): Grouped {
  const vocabulary = vocabularyOf(base)
  const { merged, unmerged } = splitByPart(file, vocabulary, base.transformer)
  const { groups, unknown, twice, adapters } = collect(file.name, merged, vocabulary)
  const alone = groups.filter(({ tensors }) =>
    [...tensors.keys()].every((role) => role === 'alpha'),
  )
  const { inert, unmatched } = sortUnknown(file, unknown, vocabulary)
  const isIgnored = new Set([...unmerged, ...namesOf(alone), ...inert])
  return {
    groups: groups.filter((group) => !alone.includes(group)),
    ignored: [...file.tensors.keys()].filter((name) => isIgnored.has(name)),
    unmatched,
    twice,
    adapters,
  }
}

const vocabularyOf = ({ transformer, clip }: LoraBase): Vocabulary => ({
  transformer: transformerModules(transformer),
  clip: clip && clipModules(clip),
})

/** The keys of groups. */
export const namesOf = (groups: readonly Group[]): readonly string[] =>
  groups.flatMap(({ tensors }) => [...tensors.values()].map(({ name }) => name))

function splitByPart({ tensors }: SafetensorsFile, vocabulary: Vocabulary, params: FluxParams) {
  const merged: TensorSlice[] = []
  const unmerged: string[] = []
  for (const slice of tensors.values())
    if (isOfUnmergedPart(slice, vocabulary, params)) unmerged.push(slice.name)
    else merged.push(slice)
  return { merged, unmerged }
}

type OpenGroup = { readonly key: LoraKey; readonly tensors: Map<Role, TensorSlice> }

function collect(path: string, slices: readonly TensorSlice[], vocabulary: Vocabulary) {
  const groups = new Map<string, OpenGroup>()
  const unknown: string[] = []
  const twice: KeyFault[] = []
  const adapters = new Set<string>()
  for (const slice of slices) {
    const { name } = slice
    const key = parseKey(name, vocabulary)
    if (!key) {
      unknown.push(name)
      continue
    }
    if (key.adapter !== undefined) adapters.add(key.adapter)
    const group = groups.get(key.stem) ?? { key, tensors: new Map() }
    const given = group.tensors.get(key.role)
    if (given) twice.push({ name, error: () => tensorTwice(path, name, given.name) })
    group.tensors.set(key.role, slice)
    groups.set(key.stem, group)
  }
  return { groups: [...groups.values()], unknown, twice, adapters: [...adapters] }
}

const tensorTwice = (path: string, name: string, given: string) =>
  invalidLora(`${path}: expected one change per layer but got ${name} and ${given}`)

function sortUnknown(file: SafetensorsFile, unknown: readonly string[], vocabulary: Vocabulary) {
  const inert = findInert(file, unknown)
  for (const name of unknown)
    if (isNoLayer(name) && !describeEnding(name, vocabulary)) inert.add(name)
  const isLora = [...file.tensors.keys()].some(hasRole)
  const left = unknown.filter((name) => !inert.has(name))
  const telling = [...left.filter(isOtherKind), ...left.filter((name) => !isOtherKind(name))]
  const unmatched = (isLora ? telling : unknown).map((name) => ({
    name,
    error: () => unknownKey(file.name, name, isLora, vocabulary),
  }))
  return { inert: isLora ? inert : new Set<string>(), unmatched }
}

function unknownKey(path: string, key: string, isLora: boolean, vocabulary: Vocabulary) {
  const known = describeForeignKey(key)
  if (!known && !isLora)
    return invalidLora(
      `${path}: expected a LoRA but none of its tensors is a LoRA's, such as ${key}`,
    )
  const fault = isBeyondLastBlock(key, vocabulary)
    ? 'is of a block that this model does not have'
    : (known ?? describeEnding(key, vocabulary) ?? 'names no layer of it')
  return invalidLora(`${path}: expected a LoRA for Flux.1 but ${key} ${fault}`)
}

const maxEndings = 8

/** For a key that begins with a layer's name, which is its longest beginning. */
function describeEnding(key: string, vocabulary: Vocabulary): string | undefined {
  let dot = key.length
  for (let i = 0; i < maxEndings; i++) {
    dot = key.lastIndexOf('.', dot - 1)
    if (dot <= 0) return undefined
    if (parseKey(`${key.slice(0, dot)}.diff`, vocabulary))
      return `ends in ${key.slice(dot)}, which is no known part of a layer's change`
  }
  return undefined
}

const isBeyondLastBlock = (key: string, vocabulary: Vocabulary) =>
  parseKey(key.replace(/(?<=(?:blocks|layers)[._])\d+/, '0'), vocabulary) !== undefined

/** Throws `lora_invalid` for BFL's control LoRAs. */
export function refuseControlLora({ name: path, tensors }: SafetensorsFile) {
  const keys = [...tensors.keys()]
  const key = keys.find(isControlKey)
  if (key && keys.some(hasRole))
    throw invalidLora(
      `${path}: expected a LoRA that adds to weights but ${key} replaces one: ` +
        'this is a Flux.1 control LoRA (Canny or Depth), which is not supported',
    )
}

/** Throws `lora_invalid` when the file holds more than one of PEFT's adapters. */
export function refuseManyAdapters(path: string, adapters: readonly string[]) {
  if (adapters.length > 1)
    throw invalidLora(
      `${path}: expected one adapter but the file holds ${adapters.length}: ${adapters.join(', ')}`,
    )
}
