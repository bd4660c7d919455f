/**
 * What may stand before a module's name, by rule: trainers, compilers and savers wrap a network in
 * any order (`transformer.base_model.model.`, `model._orig_mod.`, `lora_unet_`). A dotted wrapper
 * may have any name that is no part of the network's own names and is no other network's; words
 * joined by underscores must be known, as they run into the name that follows.
 */
import type { Modules } from './modules.js'

export type Network = 'transformer' | 'clip'

const kinds = ['lora', 'lycoris', 'locon', 'loha', 'lokr', 'dora']
const wrappers = ['model', 'base', 'module', 'orig', 'mod', 'pipe', 'pipeline', 'net', 'network']

const words: Readonly<Record<Network, ReadonlySet<string>>> = {
  transformer: new Set([
    ...kinds,
    ...wrappers,
    ...['unet', 'transformer', 'diffusion', 'dit', 'flux', 'denoiser'],
  ]),
  clip: new Set([
    ...kinds,
    ...wrappers,
    ...['te', 'te1', 'text', 'encoder', 'encoders', 'clip', 'l', 'transformer'],
  ]),
}

const startsOf = {
  transformer:
    'te\\d*|t5|text|clip|control|vae$|ae$|first_stage|cond|ip_?adapter|image|' +
    'pulid|redux|refiner|prior',
  clip: 't5|umt5|clip_[gh]|control|vae$|image|vision|llama|qwen|gemma|hydit|prior',
}

// Networks whose layers may be named as those of Flux.1's transformer or of CLIP-L.
const others: Readonly<Record<Network, RegExp>> = {
  transformer: new RegExp(
    `^(${startsOf.transformer})|encoder|decoder|(transformer|unet|model|dit)_?[2-9]$`,
    'i',
  ),
  clip: new RegExp(`^(${startsOf.clip})|(te|encoders?|clip|model)_?[2-9]$`, 'i'),
}

/** Whether `prefix`, which ends where a module's name begins, is nothing but wrappers of it. */
export function leadsTo(prefix: string, network: Network, modules: Modules): boolean {
  const segments = prefix.split('.')
  const joined = segments.pop()!.split('_').filter(Boolean)
  return (
    joined.every((word) => words[network].has(word)) &&
    segments.every((segment) => isWrapper(segment, network, modules))
  )
}

const isWrapper = (segment: string, network: Network, modules: Modules) =>
  /^[a-z_][\w-]*$/i.test(segment) &&
  !others[network].test(segment) &&
  !/block|layer/.test(segment) &&
  (words[network].has(segment) || !segmentsOf(modules).has(segment))

const segments = new WeakMap<Modules, ReadonlySet<string>>()

/** Every part between dots of a network's own names. */
function segmentsOf(modules: Modules): ReadonlySet<string> {
  const known = segments.get(modules)
  if (known) return known
  const found = new Set([...modules.keys()].flatMap((name) => name.split('.')))
  segments.set(modules, found)
  return found
}

/** The name without what PyTorch's wrappers and old attention processors put into it. */
export const withoutInnerWrappers = (name: string) =>
  name
    .split('.')
    .filter((part) => !/^(_\w+|module|processor|base_layer)$/.test(part))
    .join('.')
    .replace(/_+$/, '')

/** The network that a prefix without its last dot names; undefined for other networks. */
export function networkNamed(prefix: string): Network | undefined {
  const parts = prefix.split('.')
  if (!parts.some((part) => others.transformer.test(part))) return 'transformer'
  return parts.some((part) => others.clip.test(part)) ? undefined : 'clip'
}

const otherText = [
  /^(lora|lycoris)_(te[2-9]|t5\w*?)_/,
  /(^|\.)(text_encoders?_?[2-9]|te[2-9]|t5\w*|umt5\w*|clip_[gh])\./,
]

/** Whether the key is of T5 or another text encoder that is not CLIP-L. */
export const isOtherTextKey = (key: string) => otherText.some((each) => each.test(key))

const clipText =
  /^(lora|lycoris)_(te1?|clip(_l)?)_|(^|\.)(text_encoder|te1?|clip|clip_l)\.|text_model[._]/

/** Whether the key is of CLIP-L. */
export const isClipKey = (key: string) => !isOtherTextKey(key) && clipText.test(key)
