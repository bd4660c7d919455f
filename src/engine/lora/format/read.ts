/**
 * Opens LoRA files: reads their header, checks every key against the networks, and finds out what
 * the file means. All known schemes are accepted (keys.ts, modules.ts, deltas.ts).
 */
import { FluxdError, invalidLora } from '../../../errors.js'
import type { LoraFile } from '../../../plan/plan.js'
import {
  openSafetensors,
  type SafetensorsFile,
  type TensorSlice,
} from '../../../safetensors/read.js'
import type { ClipParams, FluxParams } from '../../flux/params.js'
import type { Delta, LoraAdapter, LoraScheme } from './adapter.js'
import { type Group, groupDeltas } from './deltas.js'
import { checkFinite } from './finite.js'
import { describeForeignKey, isControlKey } from './foreign.js'
import { hasRole, isClipKey, type LoraKey, parseKey, type Role, type Vocabulary } from './keys.js'
import { clipModules, transformerModules } from './modules.js'
import { readScaling } from './scaling.js'

/** The networks a LoRA may change; without `clip` its CLIP part is ignored. */
export type LoraBase = { readonly transformer: FluxParams; readonly clip?: ClipParams }

/**
 * The LoRA in a safetensors file, with all its values checked to be finite. Errors call it `name`.
 * Throws `lora_invalid` naming the first bad key, or saying what the file is instead of a LoRA.
 */
export async function openLora(
  file: Pick<LoraFile, 'name' | 'path'>,
  base: LoraBase,
  threads: number,
): Promise<LoraAdapter> {
  const adapter = readLora(openFile(file), base)
  await checkFinite(adapter, threads)
  return adapter
}

function openFile({ name, path }: Pick<LoraFile, 'name' | 'path'>): SafetensorsFile {
  try {
    return openSafetensors(path, name)
  } catch (cause) {
    if (cause instanceof FluxdError) throw invalidLora(cause.message, cause)
    throw cause
  }
}

/**
 * What the keys of `file` add to which tensors of the base model. Values are not read, except for
 * the alpha scalars. Throws `lora_invalid` as `openLora` does.
 */
export function readLora(file: SafetensorsFile, base: LoraBase): LoraAdapter {
  refuseControlLora(file)
  const { groups, ignored } = groupKeys(file, vocabularyOf(base), base.transformer)
  const scaling = readScaling(file)
  const deltas = new Map<string, Delta[]>()
  for (const group of groups) {
    const own = groupDeltas(file.name, group, scaling)
    const twice = own.find(([name]) => deltas.has(name))
    if (twice)
      throw changedTwice(file.name, group.key.stem, `another layer's change of ${twice[0]}`)
    for (const [name, delta] of own) deltas.set(name, [...(deltas.get(name) ?? []), delta])
  }
  if (groups.length === 0)
    throw invalidLora(
      `${file.name}: expected changes to at least one layer of Flux.1 but ${describeEmpty(ignored)}`,
    )
  return { source: file.name, scheme: schemeOf(groups), deltas, ignored }
}

/** Every module of the networks, by name. */
export const vocabularyOf = ({ transformer, clip }: LoraBase): Vocabulary => ({
  transformer: transformerModules(transformer),
  clip: clip && clipModules(clip),
})

const changedTwice = (path: string, one: string, other: string) =>
  invalidLora(`${path}: expected one change per layer but got ${one} and ${other}`)

const describeEmpty = (ignored: readonly string[]) =>
  ignored.length > 0
    ? `the file holds only ${ignored.length} tensors that are not merged, the first is ${ignored[0]}`
    : 'the file holds no tensors'

const schemeOf = (groups: readonly Group[]): LoraScheme =>
  (groups.find(({ key }) => key.network === 'transformer') ?? groups[0]!).key.scheme

function groupKeys(file: SafetensorsFile, vocabulary: Vocabulary, params: FluxParams) {
  const groups = new Map<LoraKey['module'], Group & { tensors: Map<Role, TensorSlice> }>()
  const ignored: string[] = []
  const isIgnored = ignoredKeys(file, vocabulary, params)
  for (const [name, slice] of file.tensors) {
    if (isIgnored(name)) {
      ignored.push(name)
      continue
    }
    const key = parseKey(name, vocabulary)
    if (!key) throw unknownKey(file, name, vocabulary)
    const group = groups.get(key.module) ?? { key, tensors: new Map() }
    const given = group.tensors.get(key.role)
    if (given || group.key.stem !== key.stem)
      throw changedTwice(file.name, name, (given ?? [...group.tensors.values()][0]!).name)
    group.tensors.set(key.role, slice)
    groups.set(key.module, group)
  }
  return { groups: [...groups.values()], ignored }
}

// Parts that no Flux.1 pipeline merges. Some files on the web hold the same LoRA twice, under
// diffusers' and under kohya's names; diffusers' count.
export function ignoredKeys(
  { tensors }: SafetensorsFile,
  vocabulary: Vocabulary,
  params: FluxParams,
) {
  const twice = [...tensors.keys()].some((key) => key.startsWith('transformer.'))
  return (key: string) =>
    /^(lora_te[23]_|text_encoder_[23]\.|text_encoders\.(t5xxl|clip_g)\.)/.test(key) ||
    /position_embedding|text_projection/.test(key) ||
    (!vocabulary.clip && isClipKey(key)) ||
    (!params.guidance && /guidance_(in|embedder)/.test(key)) ||
    (twice && key.startsWith('lora_unet_'))
}

/** Why `key` cannot be read. */
export function unknownKey(
  { name: path, tensors }: SafetensorsFile,
  key: string,
  vocabulary: Vocabulary,
) {
  const known = describeForeignKey(key)
  if (!known && ![...tensors.keys()].some(hasRole))
    return invalidLora(
      `${path}: expected a LoRA but none of its tensors is a LoRA's, such as ${key}`,
    )
  const fault = isBeyondLastBlock(key, vocabulary)
    ? 'is of a block that this model does not have'
    : (known ?? describeEnding(key, vocabulary) ?? 'names no layer of it')
  return invalidLora(`${path}: expected a LoRA for Flux.1 but ${key} ${fault}`)
}

/** For a key that begins with a layer's name, which is its longest beginning. */
function describeEnding(key: string, vocabulary: Vocabulary): string | undefined {
  for (let dot = key.lastIndexOf('.'); dot > 0; dot = key.lastIndexOf('.', dot - 1))
    if (parseKey(`${key.slice(0, dot)}.diff`, vocabulary))
      return `ends in ${key.slice(dot)}, which is no known part of a layer's change`
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
      `${path}: expected a LoRA that adds to weights but ${key} replaces one: this is a Flux.1 control LoRA (Canny or Depth), which is not supported`,
    )
}
