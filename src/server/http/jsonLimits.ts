/** Limits on the structure of JSON, checked without parsing it: brackets and keys, not texts. */

// Far more than any request needs: texts, which may be files, do not count.
const mostStructure = 64 * 1024
const deepest = 64

const tooDeep = `Expected JSON of at most ${deepest} levels but received more`

const [quote, backslash] = [0x22, 0x5c]
const opening: readonly number[] = [0x5b, 0x7b]
const closing: readonly number[] = [0x5d, 0x7d]

/**
 * What is wrong with the shape of `body`, JSON in UTF-8: megabytes of brackets and keys, or a
 * thousand levels, take seconds to parse and more to walk. A malformed one may pass: the parser
 * refuses it.
 */
export function refuseShape(body: Buffer): string | undefined {
  let structure = 0
  let depth = 0
  for (let at = 0; at < body.length; at++) {
    const byte = body[at]!
    if (byte === quote) {
      const { end, quotes } = skipText(body, at, mostStructure - structure)
      structure += quotes
      at = end
    } else if (opening.includes(byte)) depth++
    else if (closing.includes(byte)) depth--
    if (depth > deepest) return tooDeep
    if (++structure > mostStructure)
      return (
        `Expected at most ${mostStructure} bytes of JSON besides texts but received more; ` +
        'a file is sent as a data URI or a URL'
      )
  }
  return undefined
}

/** As `refuseShape`, of what was parsed already. */
export function refuseValue(value: unknown): string | undefined {
  try {
    return refuseShape(Buffer.from(JSON.stringify(value)))
  } catch (error) {
    // So many levels that they do not fit on the stack.
    if (error instanceof RangeError) return tooDeep
    throw error
  }
}

/**
 * Whether the texts in `value` hold whole characters only. Half of a surrogate pair can be written
 * in JSON, but many a reader refuses the whole reply that repeats it.
 */
export function isWellFormed(value: unknown): boolean {
  if (typeof value === 'string') return !halfOfPair.test(value)
  if (typeof value !== 'object' || value === null) return true
  return Object.entries(value).every(([key, each]) => isWellFormed(key) && isWellFormed(each))
}

const halfOfPair = /\p{Surrogate}/u

export const halfCharacters = 'it has half of a surrogate pair'

/**
 * Where the text that begins at `start` ends, and how many quotes it has; looks at `most` of them.
 */
function skipText(body: Buffer, start: number, most: number) {
  let end = start
  for (let quotes = 1; quotes <= most; quotes++) {
    end = body.indexOf(quote, end + 1)
    if (end < 0) return { end: body.length, quotes }
    if (!isEscaped(body, end)) return { end, quotes }
  }
  return { end, quotes: most }
}

function isEscaped(body: Buffer, at: number): boolean {
  let backslashes = 0
  while (body[at - 1 - backslashes] === backslash) backslashes++
  return backslashes % 2 === 1
}
