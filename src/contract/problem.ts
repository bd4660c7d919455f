/**
 * Errors on `/v1`: RFC 7807 problems as Replicate writes them, with the messages of gojsonschema,
 * the validator of its edge (C-3.8).
 */
import { z } from 'zod'
import { fileFields } from './input.js'
import { publishedType } from './jsonSchema.js'

export const InvalidField = z.object({
  type: z.string(),
  /** A path such as `input.num_outputs`; empty for the body itself. */
  field: z.string(),
  description: z.string(),
})
export type InvalidField = z.output<typeof InvalidField>

export const Problem = z
  .object({
    title: z.string().optional(),
    detail: z.string(),
    status: z.int().optional(),
    invalid_fields: z.array(InvalidField).optional(),
  })
  .meta({ title: 'Problem' })
export type Problem = z.output<typeof Problem>

export const problemMimeType = 'application/problem+json'

/**
 * The number of faults in a reply is bounded: a body with thousands of wrong fields has thousands
 * of them.
 */
export const mostFaults = 100

/**
 * The 422 reply for a body; the issues must carry their input (`safeParse(…, { reportInput: true
 * })`).
 */
export const toInputProblem = (issues: readonly z.core.$ZodIssue[]): Problem =>
  describeFields(issues.flatMap(toInvalidFields).slice(0, mostFaults))

export const describeFields = (fields: readonly InvalidField[]): Problem => ({
  title: 'Input validation failed',
  detail: fields.map(describeField).join(''),
  status: 422,
  invalid_fields: [...fields],
})

const describeField = ({ field, description }: InvalidField) =>
  field === '' ? `- ${description}\n` : `- ${field}: ${description}\n`

type Fault = Omit<InvalidField, 'field'>

function toInvalidFields(issue: z.core.$ZodIssue): InvalidField[] {
  const path = issue.path.map(String)
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => place(path, additionalProperty(key)))
  // A missing field is a fault of the object that lacks it.
  if (path.length > 0 && issue.input === undefined)
    return [place(path.slice(0, -1), fault('required', `${path.at(-1)} is required`))]
  return [place(path, describeFault(issue, path))]
}

const place = (path: readonly string[], { type, description }: Fault): InvalidField => ({
  type,
  field: path.join('.'),
  description,
})

const additionalProperty = (key: string) =>
  fault('additional_property_not_allowed', `Additional property ${key} is not allowed`)

function describeFault(issue: z.core.$ZodIssue, path: readonly string[]): Fault {
  switch (issue.code) {
    case 'invalid_type':
      return wrongType(publishedType(path) ?? issue.expected, issue.input)
    case 'too_small':
      return issue.origin === 'string'
        ? fault('string_gte', `String length must be greater than or equal to ${issue.minimum}`)
        : fault('number_gte', `Must be greater than or equal to ${issue.minimum}`)
    case 'too_big':
      return issue.origin === 'string'
        ? fault('string_lte', `String length must be less than or equal to ${issue.maximum}`)
        : fault('number_lte', `Must be less than or equal to ${issue.maximum}`)
    case 'invalid_value':
      return describeChoice(issue, path)
    default:
      return fault('format', describeFormat(issue, path))
  }
}

/** The type is checked before the choices: 1 is not a wrong "1" but a number. */
function describeChoice(
  { values, input }: z.core.$ZodIssueInvalidValue,
  path: readonly string[],
): Fault {
  if (typeof input !== 'string') return wrongType('string', input)
  const choices = values.map((value) => JSON.stringify(value)).join(', ')
  const name = path.slice(path.findLastIndex((key) => !/^\d+$/.test(key))).join('.')
  return fault('enum', `${name} must be one of the following: ${choices}`)
}

const uriFields: readonly string[] = ['webhook', ...fileFields.map((field) => `input.${field}`)]

/**
 * gojsonschema's message for a text that is no URL; a URL with another scheme is well-formed and
 * gets the schema's own message.
 */
const describeFormat = ({ input, message }: z.core.$ZodIssue, path: readonly string[]) =>
  uriFields.includes(path.join('.')) && !URL.canParse(String(input))
    ? "Does not match format 'uri'"
    : message

const wrongType = (expected: string, input: unknown): Fault =>
  fault(
    'invalid_type',
    `Invalid type. Expected: ${typeNames[expected] ?? expected}, given: ${typeOf(input)}`,
  )

const typeNames: Readonly<Record<string, string>> = { int: 'integer', record: 'object' }

function typeOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  // A number out of range, such as 1e400.
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  return Number.isInteger(value) ? 'integer' : typeof value
}

const fault = (type: string, description: string): Fault => ({ type, description })
