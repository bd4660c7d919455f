/** Parsers of settings: each one has the text for errors that says what it expects. */
import { inspect } from 'node:util'
import ipaddr from 'ipaddr.js'
import { z } from 'zod'

/** A value that prints as ***, however it is printed. */
export type Secret = { readonly reveal: () => string }

/** A decimal integer: not '', '0x10', '1e3' or '5000 '. */
export const integer = (minimum: number, maximum: number) =>
  z
    .string()
    .refine((text) => /^\d{1,9}$/.test(text) && isWithin(Number(text), minimum, maximum))
    .transform(Number)
    .meta({ expects: `an integer from ${minimum} to ${maximum}` })

/** A decimal number without an exponent or a sign: '1.5', not '1e1', '-1' or '.5'. */
export const decimal = (maximum: number) =>
  z
    .string()
    .refine((text) => /^\d{1,4}(\.\d{1,6})?$/.test(text) && Number(text) <= maximum)
    .transform(Number)
    .meta({ expects: `a number from 0 to ${maximum}` })

export const choice = <const T extends readonly string[]>(values: T) =>
  z.enum(values).meta({ expects: `one of ${values.join(', ')}` })

export const text = (expects: string) => z.string().meta({ expects })

export const url = z
  .string()
  .refine((text) => /^https?:\/\/[^\s@?#]+$/.test(text) && URL.canParse(text))
  .transform((text) => text.replace(/\/+$/, ''))
  .meta({ expects: 'an http or https URL' })

/** A text that fits into a header; an empty one is undefined. */
export const secret = z
  .string()
  .refine((text) => /^[\x21-\x7e]{0,4096}$/.test(text))
  .transform((text) => (text === '' ? undefined : createSecret(text)))
  .meta({ expects: 'a token without spaces', secret: true })

const shortestKey = 16

/** A secret that clients send: one that is short could be guessed. */
export const apiKey = secret
  .refine((key) => key === undefined || key.reveal().length >= shortestKey)
  .meta({ expects: `a token of at least ${shortestKey} characters without spaces`, secret: true })

export const optionalUrl = z
  .string()
  .refine((text) => text === '' || url.safeParse(text).success)
  .transform((text) => (text === '' ? undefined : text.replace(/\/+$/, '')))
  .meta({ expects: 'an http or https URL' })

const timeUnits = { s: 1, m: 60, h: 3600, d: 86_400 } as const

/** Seconds, without a unit or with one: `90`, `90s`, `15m`, `2h`, `7d`. */
export const duration = (maximum: number) =>
  z
    .string()
    .transform((text) => {
      const [, count, unit = 's'] = /^(\d{1,9})([smhd])?$/.exec(text) ?? []
      return Number(count) * timeUnits[unit as keyof typeof timeUnits]
    })
    .refine((seconds) => seconds <= maximum)
    .meta({ expects: `seconds from 0 to ${maximum}, or a time such as 15m, 2h or 7d` })

const sizeUnits = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 } as const
const sizePattern = /^(\d{1,9})(B|KiB|MiB|GiB|TiB)$/

export const bytes = z
  .string()
  .refine((text) => sizePattern.test(text))
  .transform((text) => {
    const [, count, unit] = sizePattern.exec(text)!
    return Number(count) * sizeUnits[unit as keyof typeof sizeUnits]
  })
  .meta({ expects: 'a size such as 512MiB or 20GiB' })

export const optionalBytes = z
  .string()
  .refine((text) => text === '' || sizePattern.test(text))
  .transform((text) => (text === '' ? undefined : bytes.parse(text)))
  .meta({ expects: 'a size such as 512MiB or 20GiB' })

/** As `integer`; an empty text is undefined. */
export const optionalInteger = (minimum: number, maximum: number) =>
  z
    .string()
    .refine((text) => text === '' || integer(minimum, maximum).safeParse(text).success)
    .transform((text) => (text === '' ? undefined : Number(text)))
    .meta({ expects: `an integer from ${minimum} to ${maximum}` })

/** Which GPUs: all, none, or their indices. */
export const gpuChoice = z
  .string()
  .refine((text) => /^(all|none|\d{1,2}(,\d{1,2})*)$/.test(text))
  .transform((text) =>
    text === 'all' || text === 'none' ? text : [...new Set(text.split(',').map(Number))],
  )
  .meta({ expects: 'all, none, or numbers of GPUs such as 0,1' })

const list = z.string().transform((text) =>
  text
    .split(',')
    .map((each) => each.trim())
    .filter(Boolean),
)

export const originList = list
  .refine((origins) => origins.every((each) => each === '*' || isOrigin(each)))
  .meta({ expects: 'origins such as https://app.example, separated by commas, or *' })

export const hostList = list
  .refine((hosts) => hosts.every((each) => /^[\w.-]+$/.test(each) || isAddressRange(each)))
  .meta({ expects: 'host names, addresses or ranges such as 10.0.0.0/8, separated by commas' })

/** `value` as a secret. */
export function createSecret(value: string): Secret {
  const hidden = { toJSON: () => '***', toString: () => '***', [inspect.custom]: () => '***' }
  return Object.freeze({ reveal: () => value, ...hidden })
}

const isOrigin = (text: string) => URL.canParse(text) && new URL(text).origin === text

const isAddressRange = (text: string) => ipaddr.isValid(text) || ipaddr.isValidCIDR(text)

const isWithin = (value: number, minimum: number, maximum: number) =>
  value >= minimum && value <= maximum
