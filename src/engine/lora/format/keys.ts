/**
 * How the key of a LoRA tensor is read: a prefix that tells the scheme, the module's name in one
 * of its spellings, and a suffix that tells the tensor's role. Flat names are never taken apart at
 * their underscores; they are looked up (modules.ts).
 */
import type { LoraScheme } from './adapter.js'
import type { LoraModule, Modules } from './modules.js'

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
  readonly network: 'transformer' | 'clip'
  readonly scheme: LoraScheme
  /** The module's name as the file spells it. */
  readonly name: string
}

const suffixes: Readonly<Record<Role, readonly string[]>> = {
  up: [
    ...['.lora_B.weight', '.lora_B.default.weight', '.lora_up.weight', '.lora.up.weight'],
    ...['_lora.up.weight', '.lora_linear_layer.up.weight', '.up.weight'],
  ],
  down: [
    ...['.lora_A.weight', '.lora_A.default.weight', '.lora_down.weight', '.lora.down.weight'],
    ...['_lora.down.weight', '.lora_linear_layer.down.weight', '.down.weight'],
  ],
  upBias: ['.lora_B.bias', '.lora_B.default.bias', '.lora_up.bias'],
  alpha: ['.alpha'],
  magnitude: [
    ...['.dora_scale', '.lora_magnitude_vector', '.lora_magnitude_vector.weight'],
    ...['.lora_magnitude_vector.default', '.lora_magnitude_vector.default.weight'],
  ],
  diff: ['.diff'],
  diffBias: ['.diff_b'],
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

// The first prefix that fits counts; a name without prefix is BFL's or diffusers' own.
const prefixes: readonly (readonly [string, LoraKey['network'], LoraScheme])[] = [
  ['model.diffusion_model.', 'transformer', 'comfy'],
  ['diffusion_model.', 'transformer', 'comfy'],
  ['base_model.model.', 'transformer', 'fal'],
  ['transformer.', 'transformer', 'diffusers'],
  ['lora_unet_', 'transformer', 'kohya'],
  ['lora_transformer_', 'transformer', 'onetrainer'],
  ['lycoris_', 'transformer', 'lycoris'],
  ['lora_te1_', 'clip', 'kohya'],
  ['lora_te_', 'clip', 'kohya'],
  ['text_encoders.clip_l.transformer.', 'clip', 'comfy'],
  ['text_encoder.', 'clip', 'diffusers'],
  ['', 'transformer', 'bare'],
]

/** Networks by the names of their modules; without CLIP its parts of a file are ignored. */
export type Vocabulary = Readonly<Record<LoraKey['network'], Modules | undefined>>

/** What `key` says, or undefined when it names no module of these networks or no known role. */
export function parseKey(key: string, vocabulary: Vocabulary): LoraKey | undefined {
  for (const { role, stem } of rolesOf(key)) {
    const [prefix, network, scheme] = prefixes.find(([each]) => stem.startsWith(each))!
    const name = stem.slice(prefix.length)
    const module = vocabulary[network]?.get(name)
    if (!module) continue
    return { role, stem, module, network, name, scheme: /processor/.test(name) ? 'xlabs' : scheme }
  }
  return undefined
}

// `_lora.down.weight` may be a suffix or the end of XLabs' qkv_lora: the module's name decides.
const rolesOf = (key: string) =>
  (Object.keys(suffixes) as Role[]).flatMap((role) =>
    suffixes[role]
      .filter((suffix) => key.endsWith(suffix))
      .map((suffix) => ({ role, stem: key.slice(0, -suffix.length) })),
  )

/** The key of another role in the spelling of `sibling`: .lora_up.weight beside .lora_down.weight. */
export function spell(stem: string, role: Role, sibling: string): string {
  const index = Math.max(
    ...Object.values(suffixes).map((each) => each.indexOf(sibling.slice(stem.length))),
  )
  return `${stem}${suffixes[role][index] ?? suffixes[role][0]}`
}

/** Whether the key could be a LoRA's, of whatever model. */
export const hasRole = (key: string) => rolesOf(key).length > 0

/** Whether the key belongs to CLIP. */
export const isClipKey = (key: string) =>
  prefixes.find(([prefix]) => key.startsWith(prefix))![1] === 'clip'
