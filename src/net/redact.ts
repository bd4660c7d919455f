/**
 * Secrets in what users send, removed before it is logged, stored or echoed. A URL can carry one in
 * its user name and password, in any value of its query (tokens, signatures of S3, Azure and CDNs),
 * in its fragment, and a data URI is the file itself. Of a query only values of parameters that are
 * known to be harmless are kept, because the names of secret ones cannot be listed.
 */

// They select a variant of a file (CivitAI, image CDNs) or are plain settings of a download.
const harmlessParameters: ReadonlySet<string> = new Set([
  ...['type', 'format', 'size', 'fp', 'download', 'modelVersionId', 'revision', 'version'],
  ...['w', 'h', 'width', 'height', 'q', 'quality', 'fm', 'fit', 'crop', 'auto', 'dpr'],
])

// Fields of sibling models (`hf_api_token`, `civitai_api_token`) and of nested objects.
const secretField =
  /(?:token|passw(?:or)?d|secrets?|(?:api|access|private)[-_]?key|authorization|credentials?)$/i

/** `reference` for logs, listings and errors: without secrets, at most 300 characters long. */
export function redact(reference: string): string {
  const dataType = /^data:[\w/+.-]{0,64}/i.exec(reference)?.[0]
  return dataType === undefined ? hideInUrl(reference, 200).slice(0, 300) : `${dataType}…`
}

/**
 * The fields of an input as they may be stored and echoed: the values of secret fields are
 * replaced, URLs lose their secrets. Data URIs stay, because clients read their input back.
 */
export const redactInput = (input: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(input).map(([name, value]) => [
      name,
      secretField.test(name) ? hideValue(value) : redactValue(value),
    ]),
  )

function redactValue(value: unknown): unknown {
  if (typeof value === 'string') return redactText(value)
  if (Array.isArray(value)) return value.map(redactValue)
  if (typeof value === 'object' && value !== null)
    return redactInput(value as Readonly<Record<string, unknown>>)
  return value
}

/** Numbers and flags such as `return_token: true` are no secrets. */
function hideValue(value: unknown): unknown {
  if (typeof value === 'string') return '[REDACTED]'
  if (typeof value === 'object' && value !== null) return '[REDACTED]'
  return value
}

// Both patterns take time linear in the text: what follows a match's start can match in one way
// only.
const urls = /https?:\/\/[^\s"'<>]+/gi
const secretParameters = /([?&][\w.-]*(?:token|key|secret|password|signature|sig))=[^&#\s]+/gi

/** `text` without the secrets of its URLs, also of those without a scheme; a prompt has none. */
const redactText = (text: string): string =>
  /^data:/i.test(text)
    ? text
    : text.replace(urls, (url) => hideInUrl(url)).replace(secretParameters, '$1=***')

function hideInUrl(url: string, longestPlace = Number.POSITIVE_INFINITY): string {
  const [withoutFragment] = splitOnce(url, '#')
  const [place, query] = splitOnce(withoutFragment, '?')
  const shown = hideCredentials(place).slice(0, longestPlace)
  return query === undefined ? shown : `${shown}?${query.split('&').map(hidePair).join('&')}`
}

/** The last @ before the path ends the credentials; a user name may hold one itself. */
function hideCredentials(place: string): string {
  const [scheme, rest] = splitOnce(place, '://')
  if (rest === undefined) return place
  const slash = rest.indexOf('/')
  const authority = slash < 0 ? rest : rest.slice(0, slash)
  const at = authority.lastIndexOf('@')
  return at < 0 ? place : `${scheme}://***@${rest.slice(at + 1)}`
}

function hidePair(pair: string): string {
  const [name, value] = splitOnce(pair, '=')
  // A name without a value may be a token itself, in base64 with its padding.
  if (!value) return '***'
  return `${name.slice(0, 40)}=${harmlessParameters.has(name) ? value.slice(0, 40) : '***'}`
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator)
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)]
}
