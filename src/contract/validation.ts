/**
 * Validation errors on the Cog surface: FastAPI's list, with the messages and types of pydantic 2,
 * as the Python Cog server sends them (C-2.5).
 */
import { z } from 'zod'
import { publishedType } from './jsonSchema.js'
import { mostFaults } from './problem.js'

export const ValidationError = z
  .object({
    loc: z.array(z.union([z.string(), z.int()])).meta({ title: 'Location' }),
    msg: z.string().meta({ title: 'Message' }),
    type: z.string().meta({ title: 'Error Type' }),
  })
  .meta({ title: 'ValidationError' })
export type ValidationError = z.output<typeof ValidationError>

export const HttpValidationError = z
  .object({ detail: z.array(ValidationError).meta({ title: 'Detail' }) })
  .meta({ title: 'HTTPValidationError' })

type Fault = Omit<ValidationError, 'loc'>

/**
 * The errors of a body; the issues must carry their input (`safeParse(…, { reportInput: true })`).
 */
export const toValidationErrors = (issues: readonly z.core.$ZodIssue[]): ValidationError[] =>
  issues
    .slice(0, mostFaults)
    .map((issue) => ({ loc: ['body', ...issue.path.map(toKey)], ...describeIssue(issue) }))

/** The type and message of one error, without its location. */
export function describeIssue(issue: z.core.$ZodIssue): Fault {
  switch (issue.code) {
    case 'invalid_type':
      return describeType(issue)
    case 'too_small':
      return fault('greater_than_equal', `greater than or equal to ${issue.minimum}`)
    case 'too_big':
      if (issue.origin === 'string')
        return {
          type: 'string_too_long',
          msg: `String should have at most ${issue.maximum} characters`,
        }
      return fault('less_than_equal', `less than or equal to ${issue.maximum}`)
    case 'invalid_value':
      return fault('enum', listChoices(issue.values))
    default:
      return { type: 'value_error', msg: issue.message }
  }
}

function describeType(issue: z.core.$ZodIssueInvalidType): Fault {
  if (issue.input === undefined) return { type: 'missing', msg: 'Field required' }
  const unreadable =
    typeof issue.input === 'string' ? describeUnreadable(issue, issue.input) : undefined
  if (unreadable) return unreadable
  const isInteger = publishedType(issue.path) === 'integer'
  if (isInteger && issue.expected === 'number') return fault('int_type', 'a valid integer')
  switch (issue.expected) {
    case 'string':
      return fault('string_type', 'a valid string')
    case 'int':
      return fault('int_from_float', 'a valid integer, got a number with a fractional part')
    case 'number':
      return fault('float_type', 'a valid number')
    case 'boolean':
      return fault('bool_type', 'a valid boolean')
    case 'object':
    case 'record':
      return fault('dict_type', 'a valid dictionary')
    case 'array':
      return fault('list_type', 'a valid list')
    default:
      return { type: 'value_error', msg: issue.message }
  }
}

/**
 * The error of a text that pydantic could not parse as the field's type. A text that it could parse
 * is an error of type here, because nothing is coerced, as in pydantic's strict mode.
 */
function describeUnreadable({ path }: z.core.$ZodIssue, text: string): Fault | undefined {
  switch (publishedType(path)) {
    case 'integer':
      return /^\s*[+-]?\d+(\.0+)?\s*$/.test(text)
        ? undefined
        : fault('int_parsing', 'a valid integer, unable to parse string as an integer')
    case 'number':
      return /^\s*[+-]?(\d+\.?\d*|\.\d+|inf|nan)(e[+-]?\d+)?\s*$/i.test(text)
        ? undefined
        : fault('float_parsing', 'a valid number, unable to parse string as a number')
    case 'boolean':
      return /^(0|1|off|on|f|t|false|true|n|y|no|yes)$/i.test(text)
        ? undefined
        : fault('bool_parsing', 'a valid boolean, unable to interpret input')
    default:
      return undefined
  }
}

const fault = (type: string, expected: string): Fault => ({
  type,
  msg: `Input should be ${expected}`,
})

function listChoices(values: readonly z.core.util.Primitive[]): string {
  const quoted = values.map((value) => `'${String(value)}'`)
  return quoted.length < 2 ? quoted.join() : `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`
}

const toKey = (key: PropertyKey) => (typeof key === 'number' ? key : String(key))
