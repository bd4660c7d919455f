/**
 * The file format of a named model: `<owner>/<name>.json` holds the base, the LoRAs, the trigger
 * word and other defaults of the input; `<name>.md` beside it, if it exists, is its readme.
 */
import { basename, dirname } from 'node:path'
import { z } from 'zod'
import { FluxInput, publishedInput } from '../contract/input.js'
import { FluxdError, firstFault, invalidConfig, invalidInput } from '../errors.js'
import { variants } from '../plan/plan.js'
import { draftPlan } from '../plan/planGeneration.js'

/** Owners and names: safe in paths and URLs, and unambiguous on case-insensitive file systems. */
const slug = /^[a-z0-9][a-z0-9._-]{0,63}$/

export type ModelName = { readonly owner: string; readonly name: string }

const { shape } = publishedInput
const own = <T extends z.ZodType>(field: z.ZodDefault<T>) => field.unwrap().optional()

/**
 * The fields of an input that a model may set for requests that do not; `model` follows from the
 * base.
 */
export const InputDefaults = z.strictObject({
  aspect_ratio: own(shape.aspect_ratio),
  height: shape.height,
  width: shape.width,
  prompt_strength: own(shape.prompt_strength),
  num_outputs: own(shape.num_outputs),
  num_inference_steps: own(shape.num_inference_steps),
  guidance_scale: own(shape.guidance_scale),
  output_format: own(shape.output_format),
  output_quality: own(shape.output_quality),
  disable_safety_checker: own(shape.disable_safety_checker),
  go_fast: own(shape.go_fast),
  megapixels: own(shape.megapixels),
  lora_scale: own(shape.lora_scale),
  extra_lora_scale: own(shape.extra_lora_scale),
})
export type InputDefaults = z.output<typeof InputDefaults>

const LoraEntry = z
  .strictObject({
    /** A path relative to the catalog's file. Only the operator may set it, never a client. */
    file: z.string().min(1).max(4000).optional(),
    /** A reference, as in `replicate_weights`. */
    source: z.string().min(1).max(2000).optional(),
    scale: shape.lora_scale,
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits')
      .optional(),
  })
  .refine(({ file, source }) => (file === undefined) !== (source === undefined), {
    error: 'expected either file or source',
  })

export const CatalogEntry = z.strictObject({
  description: z.string().max(1000).default(''),
  triggerWord: z.string().min(1).max(100).optional(),
  base: z.enum(variants).default('dev'),
  loras: z.array(LoraEntry).max(8).default([]),
  defaults: InputDefaults.default({}),
  /** Ids by which clients name the version, as Replicate gave them. */
  versionAliases: z
    .array(
      z.string().regex(/^\w[\w.-]{0,63}$/, 'expected up to 64 letters, digits, "_", "." and "-"'),
    )
    .max(100)
    .default([]),
  /** Shown to clients; who may use the model does not depend on it. */
  visibility: z.enum(['public', 'private']).default('public'),
  createdAt: z.iso.datetime().optional(),
})
export type CatalogEntry = z.output<typeof CatalogEntry>
export type EntryFields = z.input<typeof CatalogEntry>

/** The entry in `text`, the content of `file`. Throws `config_invalid` naming file and key. */
export function readEntry(file: string, text: string): CatalogEntry {
  try {
    return checkEntry(JSON.parse(text))
  } catch (error) {
    if (error instanceof FluxdError) throw invalidConfig(`${file}: ${error.message}`)
    throw invalidConfig(`${file}: expected JSON (${String(error)})`)
  }
}

/** `fields` as an entry. Throws `invalid_input` naming the key. */
export function checkEntry(fields: unknown): CatalogEntry {
  const parsed = CatalogEntry.safeParse(fields)
  if (!parsed.success) throw invalidInput(firstFault(parsed.error))
  checkDefaults(parsed.data.defaults)
  return parsed.data
}

/**
 * Throws unless an input of a prompt alone is valid: `custom` without a size would fail every
 * request.
 */
function checkDefaults(defaults: InputDefaults): void {
  const settings = { noise: 'torch-cuda', goFastLoraMultiplier: 1, safetyChecker: false } as const
  const draft = draftPlan(FluxInput.parse({ ...defaults, prompt: '' }), [], settings)
  if (draft.kind === 'invalid') throw invalidInput(`defaults: ${draft.error.message}`)
}

/** The model's name, from the path of its file. Throws `config_invalid` for other paths. */
export function nameOfFile(file: string): ModelName {
  const model = { owner: basename(dirname(file)), name: basename(file, '.json') }
  if (isModelName(model)) return model
  throw invalidConfig(`${file}: expected <owner>/<name>.json of ${nameRule}`)
}

export const isModelName = ({ owner, name }: ModelName) => slug.test(owner) && slug.test(name)

export const nameRule = 'a-z, 0-9, ".", "_" and "-", each beginning with a letter or digit'
