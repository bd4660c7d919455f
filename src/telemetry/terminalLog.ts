/**
 * Log lines for people: where stderr is a terminal, pino's JSON becomes `12:00:00 warning: text`
 * and the fields that matter. Piped logs stay JSON, for collectors.
 */
import { Writable } from 'node:stream'

const levelNames: Readonly<Record<number, string>> = {
  10: 'trace: ',
  20: 'debug: ',
  30: '',
  40: 'warning: ',
  50: 'error: ',
  60: 'fatal: ',
}

// They are in every line, or say what the text says.
const hidden: ReadonlySet<string> = new Set([
  'level',
  'time',
  'pid',
  'hostname',
  'msg',
  'name',
  'v',
])

// A configuration or a stack would fill the screen; it is in the JSON.
const longestField = 200

/** A destination for pino that writes its lines to `stream` for people. */
export const createTerminalLog = (stream: Pick<NodeJS.WritableStream, 'write'>): Writable =>
  new Writable({
    decodeStrings: false,
    write(line: string, _, done) {
      stream.write(formatLine(line))
      done()
    },
  })

/** One line of pino's JSON as text; a text that is no JSON object stays as it is. */
export function formatLine(line: string): string {
  const record = parse(line)
  if (!record) return line
  const { level, time, msg = '' } = record
  const clock = new Date(Number(time)).toTimeString().slice(0, 8)
  const fields = Object.entries(record).flatMap(([name, value]) => describeField(name, value))
  const text = [msg, ...fields].join('  ').trim()
  return `${clock} ${levelNames[Number(level)] ?? ''}${withoutControls(text)}\n`
}

// Users' text must not move the cursor of the operator's terminal or change its colours.
const withoutControls = (text: string) => text.replace(/\p{Cc}+/gu, ' ')

function parse(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null ? { ...value } : undefined
  } catch {
    // Not pino's own line: it is printed as it came.
    return undefined
  }
}

function describeField(name: string, value: unknown): string[] {
  if (hidden.has(name) || value === undefined || value === null) return []
  if (name === 'err' && typeof value === 'object' && 'message' in value)
    return [String(value.message)]
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return text.length > longestField ? [] : [`${name}=${text}`]
}
