/**
 * The JSON Schemas of input and output, derived from the zod schemas, the JSON types of the input's
 * fields, and the two helpers that every body schema needs.
 */
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

/**
 * Removes bounds that the published schema does not have: zod's for integers that a double holds
 * exactly, and fluxd's for the prompt.
 */
function dropOwnBounds({ jsonSchema }: { jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum
  if (jsonSchema.maxLength === longestPrompt) delete jsonSchema.maxLength
}

/** The schema as plain JSON, without zod's own keys (`~standard`, `$schema`, `$id`). */
export function plain(schema: object): JsonObject {
  const { $schema, $id, ...rest } = JSON.parse(JSON.stringify(schema))
  return rest
}

/** The JSON type of each published field of the input: string, integer, number or boolean. */
export function inputTypes(): ReadonlyMap<string, string> {
  const fields = inputJsonSchema()['properties'] as Record<string, { readonly type: string }>
  return new Map(Object.entries(fields).map(([name, { type }]) => [name, type]))
}

/**
 * The published JSON type of the field at `path` of a body; undefined outside the input. An issue
 * of zod does not hold it: zod reports integers as numbers.
 */
export function publishedType([first, field, ...rest]: readonly PropertyKey[]): string | undefined {
  if (first !== 'input' || field === undefined || rest.length > 0) return undefined
  const { shape } = publishedInput
  if (!Object.hasOwn(shape, field)) return undefined
  return String(z.toJSONSchema(shape[field as keyof typeof shape], dialect).type)
}

/** Whether a JSON value is an object. */
export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The fields of `record` that are not null: clients write null for what they leave out. */
export const withoutNulls = (record: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== null))
