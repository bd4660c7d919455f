import { z } from 'zod'
import { publishedInput } from './input.js'
import { dialect, inputJsonSchema } from './jsonSchema.js'

/** The JSON type of each published field of the input: string, integer, number or boolean. */
export function inputTypes(): ReadonlyMap<string, string> {
  const fields = inputJsonSchema()['properties'] as Record<string, { readonly type: string }>
  return new Map(Object.entries(fields).map(([name, { type }]) => [name, type]))
}

/**
 * The published type of the field at `path` of a body; undefined for what is none of the input. zod takes
 * an integer for a number when it is not even that.
 */
export function publishedType([first, field, ...rest]: readonly PropertyKey[]): string | undefined {
  if (first !== 'input' || field === undefined || rest.length > 0) return undefined
  const { shape } = publishedInput
  if (!Object.hasOwn(shape, field)) return undefined
  return String(z.toJSONSchema(shape[field as keyof typeof shape], dialect).type)
}
