/**
 * How the key of a LoRA tensor is read: wrappers that trainers put around the network, the module's
 * name in one of its spellings (modules.ts), and a suffix for the tensor's role. Flat names are
 * looked up, never taken apart at their underscores.
 */
import type { LoraScheme } from './adapter.js'
import type { LoraModule, Modules } from './modules.js'
import { leadsTo, type Network, withoutInnerWrappers } from './wrappers.js'

/** What a tensor is within its module's change. */
export type Role =
  | 'up'
  | 'down'
  | 'upBias'
  | 'alpha'
  | 'magnitude'
  | 'diff'
  | 'diffBias'
  | 'hadaUp1'
  | 'hadaDown1'
  | 'hadaUp2'
  | 'hadaDown2'
  | 'lokr1'
  | 'lokrUp1'
  | 'lokrDown1'
  | 'lokr2'
  | 'lokrUp2'
  | 'lokrDown2'

export type LoraKey = {
  readonly role: Role
  /** The key without its suffix: what the tensors of one module's change have in common. */
  readonly stem: string
  readonly module: LoraModule
  readonly network: Network
  readonly scheme: LoraScheme
  /** The module's name as the file spells it. */
  readonly name: string
  /** PEFT's name of the adapter, where the key has one. */
  readonly adapter: string | undefined
}

/** Networks by the names of their modules; without CLIP its parts of a file are ignored. */
export type Vocabulary = Readonly<Record<Network, Modules | undefined>>

// Endings of one position belong together: .lora_A.weight and .lora_B.weight.
const suffixes: Readonly<Record<Role, readonly string[]>> = {
  up: [
    '.lora_B.weight',
    '.lora_up.weight',
    '.lora.up.weight',
    '_lora.up.weight',
    '.lora_linear_layer.up.weight',
    '.up.weight',
    '.lora_B',
    '.lora_up',
  ],
  down: [
    '.lora_A.weight',
    '.lora_down.weight',
    '.lora.down.weight',
    '_lora.down.weight',
    '.lora_linear_layer.down.weight',
    '.down.weight',
    '.lora_A',
    '.lora_down',
  ],
  upBias: ['.lora_B.bias', '.lora_up.bias'],
  alpha: ['.alpha'],
  magnitude: ['.dora_scale', '.lora_magnitude_vector', '.lora_magnitude_vector.weight'],
  diff: ['.diff', '.w_norm'],
  diffBias: ['.diff_b', '.b_norm'],
  hadaUp1: ['.hada_w1_a'],
  hadaDown1: ['.hada_w1_b'],
  hadaUp2: ['.hada_w2_a'],
  hadaDown2: ['.hada_w2_b'],
  lokr1: ['.lokr_w1'],
  lokrUp1: ['.lokr_w1_a'],
  lokrDown1: ['.lokr_w1_b'],
  lokr2: ['.lokr_w2'],
  lokrUp2: ['.lokr_w2_a'],
  lokrDown2: ['.lokr_w2_b'],
}

/** What `key` says, or undefined when it names no module of these networks or no known role. */
export function parseKey(key: string, vocabulary: Vocabulary): LoraKey | undefined {
  for (const { role, stem, adapter } of rolesOf(key)) {
    const place = locate(stem, vocabulary)
    if (place) return { role, stem, adapter, ...place }
  }
  return undefined
}

type Place = Pick<LoraKey, 'module' | 'network' | 'scheme' | 'name'>

function locate(stem: string, vocabulary: Vocabulary): Place | undefined {
  const place = search(stem, vocabulary)
  if (place) return place
  const unwrapped = withoutInnerWrappers(stem)
  return unwrapped === stem ? undefined : search(unwrapped, vocabulary)
}

/** The module that `stem` ends in, after whatever wrappers; the longest name counts. */
function search(stem: string, vocabulary: Vocabulary): Place | undefined {
  for (const begin of beginnings(stem)) {
    const name = stem.slice(begin)
    for (const network of ['transformer', 'clip'] as const) {
      const modules = vocabulary[network]
      const module = modules?.get(name)
      if (!modules || !module) continue
      const prefix = stem.slice(0, begin)
      if (leadsTo(prefix, network, modules))
        return { module, network, name, scheme: schemeOf(prefix, name) }
    }
  }
  return undefined
}

// No trainer wraps deeper; a stranger's keys may be nothing but dots.
const maxBeginnings = 16

/** Where a module's name may begin: at the start, and after the first dots and underscores. */
function beginnings(stem: string): readonly number[] {
  const found = [0]
  for (let at = 0; at < stem.length && found.length < maxBeginnings; at++)
    if (stem[at] === '.' || stem[at] === '_') found.push(at + 1)
  return found
}

const schemes: readonly (readonly [RegExp, LoraScheme])[] = [
  [/^$/, 'bare'],
  [/base_model\.model\.$/, 'fal'],
  [/lora_transformer_$/, 'onetrainer'],
  [/lycoris_$/, 'lycoris'],
  [/_$/, 'kohya'],
  [/diffusion_model\.|^text_encoders\.|^clip_l\./, 'comfy'],
  [/^(transformer|unet|text_encoder)\./, 'diffusers'],
]

const schemeOf = (prefix: string, name: string): LoraScheme =>
  name.includes('processor.') && name.includes('_lora')
    ? 'xlabs'
    : (schemes.find(([pattern]) => pattern.test(prefix))?.[1] ?? 'bare')

type RoleOfKey = Pick<LoraKey, 'role' | 'stem' | 'adapter'>

// `_lora.down.weight` may be a suffix or the end of XLabs' qkv_lora: the module's name decides.
function rolesOf(key: string): readonly RoleOfKey[] {
  const { plain, adapter } = withoutAdapter(key)
  return (Object.keys(suffixes) as Role[]).flatMap((role) =>
    suffixes[role]
      .filter((suffix) => plain.endsWith(suffix))
      .map((suffix) => ({ role, stem: plain.slice(0, -suffix.length), adapter })),
  )
}

const namedAdapter = /\.(lora_[AB]|lora_up|lora_down|lora_magnitude_vector)\.([^.]+)(\.\w+)?$/

/** PEFT writes `.lora_A.<adapter>.weight`, and `.lora_A.weight` where it leaves the name out. */
function withoutAdapter(key: string): { plain: string; adapter: string | undefined } {
  const [whole, part, adapter, ending = ''] = namedAdapter.exec(key) ?? []
  const isEnding = ending === '' && (adapter === 'weight' || adapter === 'bias')
  if (whole === undefined || isEnding) return { plain: key, adapter: undefined }
  return { plain: `${key.slice(0, -whole.length)}.${part}${ending}`, adapter }
}

/** The key of another role in the spelling of `sibling`: `.lora_up` for `.lora_down`. */
export function spell(stem: string, role: Role, sibling: string): string {
  const { plain, adapter } = withoutAdapter(sibling)
  const ending = plain.slice(stem.length)
  const index = Math.max(...Object.values(suffixes).map((each) => each.indexOf(ending)))
  const spelled = suffixes[role][index] ?? suffixes[role][0]!
  return `${stem}${adapter ? spelled.replace(/(?<=lora_[AB])/, `.${adapter}`) : spelled}`
}

/** Whether the key could be a LoRA's, of whatever model. */
export const hasRole = (key: string) => rolesOf(key).length > 0

/** The key without the suffix of its role; the key itself where it has none. */
export const stemOf = (key: string) => rolesOf(key)[0]?.stem ?? key

/** The role of a key, whatever module it names. */
export const roleOf = (key: string): Role | undefined => rolesOf(key)[0]?.role
