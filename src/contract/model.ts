/**
 * Models and their versions on `/v1`. Fields that fluxd does not store (links, a cover) are null
 * (C-3.12).
 */
import { z } from 'zod'
import { openApiDocument } from './openapi.js'

/**
 * Clients treat a list as an iterator for versions before 0.3.9; this is the version that the
 * fine-tunes were built with.
 */
export const cogVersion = '0.9.26'

export const ModelVersion = z
  .object({
    id: z.string(),
    created_at: z.string().meta({ format: 'date-time' }),
    cog_version: z.string(),
    openapi_schema: z.record(z.string(), z.unknown()),
  })
  .meta({ title: 'Version' })
export type ModelVersion = z.output<typeof ModelVersion>

export const Model = z
  .object({
    url: z.string(),
    owner: z.string(),
    name: z.string(),
    description: z.string(),
    visibility: z.enum(['public', 'private']),
    is_official: z.boolean(),
    github_url: z.string().nullable(),
    paper_url: z.string().nullable(),
    license_url: z.string().nullable(),
    cover_image_url: z.string().nullable(),
    run_count: z.int(),
    default_example: z.null(),
    latest_version: ModelVersion,
  })
  .meta({ title: 'Model' })
export type Model = z.output<typeof Model>

const linkFields = {
  github_url: z.string().nullish(),
  paper_url: z.string().nullish(),
  license_url: z.string().nullish(),
  cover_image_url: z.string().nullish(),
}

/**
 * `visibility` and `hardware` are required by clients' types and have no effect: there is one host.
 */
export const CreateModel = z.strictObject({
  owner: z.string(),
  name: z.string(),
  visibility: z.enum(['public', 'private']),
  hardware: z.string(),
  description: z.string().max(1000).nullish(),
  /** An addition of fluxd: the reference of the LoRA, as in `extra_lora`. */
  weights_url: z.string().max(2000).nullish(),
  ...linkFields,
})
export type CreateModel = z.output<typeof CreateModel>

export const UpdateModel = z.strictObject({
  description: z.string().max(1000).nullish(),
  readme: z.string().nullish(),
  weights_url: z.string().max(2000).nullish(),
  ...linkFields,
})
export type UpdateModel = z.output<typeof UpdateModel>

export type ModelCollection = {
  readonly name: string
  readonly slug: string
  readonly description: string
  readonly full_description: string | null
}

type JsonObject = { readonly [key: string]: unknown }

/**
 * The OpenAPI document of a version: Cog's, with the defaults of `input`, which is the published
 * Input schema with a model's own defaults.
 */
export function versionSchema(input: JsonObject): JsonObject {
  const document = openApiDocument()
  const { schemas } = document['components'] as { schemas: Record<string, JsonObject> }
  const own = input['properties'] as Record<string, JsonObject>
  const published = schemas['Input']!
  const properties = Object.entries(published['properties'] as Record<string, JsonObject>).map(
    ([name, field]) => [name, withDefault(field, own[name]?.['default'])],
  )
  const Input = { ...published, properties: Object.fromEntries(properties) }
  return { ...document, components: { schemas: { ...schemas, Input } } }
}

const withDefault = (field: JsonObject, value: unknown) =>
  value === undefined ? field : { ...field, default: value }
