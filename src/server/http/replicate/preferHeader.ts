/** The headers with which a client says how long it waits and how long a prediction may live. */
import { problem } from './errors.js'

export type Preferences = {
  /** Seconds to hold the reply back for a result; absent where the client does not wait. */
  readonly waitSeconds?: number
  /** Images as URLs or as data URIs; absent where the server decides. */
  readonly output?: OutputForm
  /** What is honoured of it, for `Preference-Applied`. */
  readonly applied: string
}

export const outputForms = ['url', 'data'] as const
export type OutputForm = (typeof outputForms)[number]

const defaultWait = 60

/**
 * `wait`, `wait=n` (n outside 1 to 60 is brought inside) and `output=url|data`; others are ignored.
 */
export function parsePrefer(header: string | string[] | undefined): Preferences {
  const preferences = new Map(
    String(header ?? '')
      .split(/[,;]/)
      .map((part) => part.trim().toLowerCase().split('='))
      .map(([name = '', value]) => [name.trim(), value?.trim()]),
  )
  const wait = preferences.has('wait') ? clampWait(preferences.get('wait')) : undefined
  const output = outputForms.find((form) => form === preferences.get('output'))
  return {
    ...(wait && { waitSeconds: wait.seconds }),
    ...(output && { output }),
    applied: [wait?.applied, output && `output=${output}`].filter(Boolean).join(', '),
  }
}

function clampWait(value: string | undefined): { seconds: number; applied: string } | undefined {
  if (value === undefined) return { seconds: defaultWait, applied: 'wait' }
  if (!/^\d{1,9}$/.test(value)) return undefined
  const seconds = Math.min(60, Math.max(1, Number(value)))
  return { seconds, applied: `wait=${seconds}` }
}

const [shortestLife, longestLife] = [5, 24 * 60 * 60]

/**
 * Seconds that `Cancel-After` grants: `30`, `30s`, `1m30s`, `2h`. Throws a 422 for anything else.
 */
export function parseCancelAfter(header: string | string[] | undefined): number | undefined {
  if (header === undefined) return undefined
  const text = String(header).trim()
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : parseDuration(text)
  if (seconds >= shortestLife && seconds <= longestLife) return seconds
  throw problem(
    422,
    'Invalid Cancel-After header',
    'Expected Cancel-After to be a duration such as 30s, 1m30s or 2h, ' +
      `from 5 seconds to 24 hours, but received ${JSON.stringify(text.slice(0, 40))}`,
  )
}

/** NaN for what is none. */
function parseDuration(text: string): number {
  const match = /^(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?$/.exec(text)
  if (!match || text === '') return Number.NaN
  const [hours = 0, minutes = 0, seconds = 0] = match.slice(1).map((digits) => Number(digits ?? 0))
  return hours * 3600 + minutes * 60 + seconds
}
