/**
 * What a model makes of the input that was sent to it: its defaults below the input, its LoRAs as
 * the main ones.
 */
import { basename } from 'node:path'
import { FluxInput } from '../contract/input.js'
import { inputJsonSchema } from '../contract/jsonSchema.js'
import { redact } from '../net/redact.js'
import type { LoraRef } from '../plan/loraRef.js'
import type { Catalog } from './catalog.js'
import { isVersionOf, type Model, type ModelLora } from './model.js'

export type ResolvedInput = {
  readonly input: FluxInput
  /** Merged in this order. */
  readonly loras: readonly LoraRef[]
}

/** How sibling models of the fine-tunes call the same fields (C-0.3). */
const aliases = { lora_weights: 'replicate_weights', guidance: 'guidance_scale' } as const

/**
 * The input that `sent` means for `model`, and its LoRAs. A `replicate_weights` that was sent takes
 * the place of the model's LoRAs; references that name a model of the catalog mean its LoRAs, with
 * their scales. Throws a ZodError with the issues of `FluxInput`.
 */
export function resolveInput(
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  catalog: Pick<Catalog, 'find'>,
): ResolvedInput {
  const input = FluxInput.parse(
    { ...model.defaults, model: model.base, ...withoutAliases(sent) },
    { reportInput: true },
  )
  const main = input.replicate_weights ? lookUp(input.replicate_weights, catalog) : model.loras
  const extra = input.extra_lora ? lookUp(input.extra_lora, catalog) : []
  return {
    input,
    loras: [
      ...main.map((lora) => resolveLora(lora, 'main', input.lora_scale)),
      ...extra.map((lora) => resolveLora(lora, 'extra', input.extra_lora_scale)),
    ],
  }
}

const resolveLora = (lora: ModelLora, role: LoraRef['role'], scale: number): LoraRef => ({
  ...lora,
  role,
  name: nameOf(lora),
  scale: lora.scale * scale,
})

function nameOf({ path, source }: ModelLora): string {
  if (path !== undefined) return basename(path)
  return redact(source)
}

/** The published Input schema with the model's own defaults. */
export function inputSchemaOf({ defaults, base }: Model): Readonly<Record<string, unknown>> {
  const schema = inputJsonSchema()
  const fields = Object.entries(schema['properties'] as Record<string, object>)
  const own: Readonly<Record<string, unknown>> = { ...defaults, model: base }
  const properties = fields.map(([name, field]) => [
    name,
    own[name] === undefined ? field : { ...field, default: own[name] },
  ])
  return { ...schema, properties: Object.fromEntries(properties) }
}

function withoutAliases(sent: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const fields = { ...sent }
  for (const [alias, field] of Object.entries(aliases))
    if (fields[field] === undefined && fields[alias] !== undefined) fields[field] = fields[alias]
  return fields
}

/** `owner/name` or `owner/name/version` of a model served here; all else is to be fetched. */
function lookUp(reference: string, catalog: Pick<Catalog, 'find'>): readonly ModelLora[] {
  const [, owner = '', name = '', version] =
    /^([^/:]+)\/([^/:]+)(?:[/:]([0-9a-f]{8,64}))?$/.exec(reference) ?? []
  const model = catalog.find(owner, name)
  const isMeant = model && model.loras.length > 0 && isVersionOf(model, version ?? model.version)
  return isMeant ? model.loras : [{ source: reference, scale: 1 }]
}
