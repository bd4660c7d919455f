/** What a model makes of what was sent to it: its defaults below, its LoRAs as the main ones. */
import { FluxInput } from '../contract/input.js'
import { inputJsonSchema } from '../contract/jsonSchema.js'
import type { Catalog } from './catalog.js'
import { isVersionOf, type Model, type ModelLora } from './model.js'

export type AppliedModel = {
  readonly wish: FluxInput
  /** Merged in this order. Scales are the model's times the wish's; what go_fast does is to come. */
  readonly loras: { readonly main: readonly ModelLora[]; readonly extra: readonly ModelLora[] }
}

/** How sibling models of the fine-tunes call the same fields (replicate-contract §0.3). */
const aliases = { lora_weights: 'replicate_weights', guidance: 'guidance_scale' } as const

/**
 * The wish that `sent` means for `model`, and the LoRAs to make it with. A `replicate_weights` that was
 * sent takes the place of the model's LoRAs; references that name a model of the catalog mean its
 * LoRAs, with their scales. Throws a ZodError with the issues of `FluxInput`.
 */
export function applyModel(
  model: Model,
  sent: Readonly<Record<string, unknown>>,
  catalog: Pick<Catalog, 'find'>,
): AppliedModel {
  const wish = FluxInput.parse(
    { ...model.defaults, model: model.base, ...withoutAliases(sent) },
    { reportInput: true },
  )
  const main = wish.replicate_weights ? lookUp(wish.replicate_weights, catalog) : model.loras
  const extra = wish.extra_lora ? lookUp(wish.extra_lora, catalog) : []
  return {
    wish,
    loras: { main: scaled(main, wish.lora_scale), extra: scaled(extra, wish.extra_lora_scale) },
  }
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

const scaled = (loras: readonly ModelLora[], factor: number): readonly ModelLora[] =>
  loras.map((lora) => ({ ...lora, scale: lora.scale * factor }))
