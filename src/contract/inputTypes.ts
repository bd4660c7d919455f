import { inputJsonSchema } from './openapi.js'

/** The JSON type of each published field of the input: string, integer, number or boolean. */
export function inputTypes(): ReadonlyMap<string, string> {
  const fields = inputJsonSchema()['properties'] as Record<string, { readonly type: string }>
  return new Map(Object.entries(fields).map(([name, { type }]) => [name, type]))
}
