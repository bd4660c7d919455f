/** Secrets that clients put into an input: fields of sibling models, and tokens inside references. */
const secretField = /(token|password|secret|api_key)$/i
const secretParameter = /([?&](?:token|access_token|api_key|apikey)=)[^&#\s]+/gi
const credentials = /^(https?:\/\/)[^/@\s]+@/i

/** `input` as it may be echoed and stored; a data URI is left alone. */
export const withoutSecrets = (input: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(input).map(([name, value]) => [
      name,
      secretField.test(name) ? hide(value) : redact(value),
    ]),
  )

const hide = (value: unknown) => (typeof value === 'string' ? '[REDACTED]' : value)

const redact = (value: unknown) =>
  typeof value === 'string' && !/^data:/i.test(value)
    ? value.replace(secretParameter, '$1***').replace(credentials, '$1***@')
    : value
