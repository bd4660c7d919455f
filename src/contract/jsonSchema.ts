/** The JSON Schemas of input and output, derived from the zod schemas. */
import { z } from 'zod'
import { longestPrompt, Output, publishedInput } from './input.js'

export type JsonObject = { readonly [key: string]: unknown }

/** The Input schema exactly as Replicate publishes it, enums in place. */
export const inputJsonSchema = (): JsonObject => plain(z.toJSONSchema(publishedInput, dialect))

export const outputJsonSchema = (): JsonObject => plain(z.toJSONSchema(Output, dialect))

export const dialect = {
  io: 'input',
  target: 'openapi-3.0',
  override: dropOwnBounds,
} as const

/** zod bounds every integer by what a double holds exactly, and we the prompt; the contract publishes neither. */
function dropOwnBounds({ jsonSchema }: { jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum
  if (jsonSchema.maxLength === longestPrompt) delete jsonSchema.maxLength
}

/** The schema as JSON, without what zod adds for its own use (`~standard`, `$schema`, `$id`). */
export function plain(schema: object): JsonObject {
  const { $schema, $id, ...rest } = JSON.parse(JSON.stringify(schema))
  return rest
}
