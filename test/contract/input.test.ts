import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import { inputJsonSchema, outputJsonSchema } from '../../src/contract/jsonSchema.js'
import { openApiDocument } from '../../src/contract/openapi.js'

type Field = { [key: string]: unknown }
type Schema = { properties: Record<string, Field> }

const seed: { Input: Schema; Output: Field } = JSON.parse(
  readFileSync(new URL('./seedSchema.json', import.meta.url), 'utf8'),
)
const accepts = (fields: object) => FluxInput.safeParse({ prompt: '', ...fields }).success

test('the Input schema is the published one', () => {
  expect(inputJsonSchema()).toStrictEqual(seed.Input)
})

test('the Output schema is the published one', () => {
  expect(outputJsonSchema()).toStrictEqual(seed.Output)
})

describe('the OpenAPI document', () => {
  const document = openApiDocument() as {
    paths: Record<string, unknown>
    components: { schemas: Record<string, Schema & Field> }
  }
  const { schemas } = document.components

  test('holds the published Input once its enum components are put in place', () => {
    const input = structuredClone(schemas['Input']!)
    for (const [name, field] of Object.entries(input.properties)) {
      if (!field['allOf']) continue
      const { description: _, ...component } = schemas[name]!
      const { allOf, ...rest } = field
      expect(allOf).toEqual([{ $ref: `#/components/schemas/${name}` }])
      input.properties[name] = { ...component, ...rest }
    }
    expect(input).toStrictEqual(seed.Input)
  })

  test('describes each enum as Cog does', () => {
    expect(schemas['megapixels']).toEqual({
      title: 'megapixels',
      description: 'An enumeration.',
      enum: ['1', '0.25'],
      type: 'string',
    })
  })

  test('resolves every reference it makes', () => {
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map(
      (m) => m[1]!,
    )
    expect(references).toContain('#/components/schemas/Input')
    for (const reference of references)
      expect(Object.keys(schemas)).toContain(reference.replace('#/components/schemas/', ''))
  })

  test('keeps zod and the hidden field to itself', () => {
    expect(JSON.stringify(document)).not.toMatch(
      /~standard|\$schema|replicate_weights|9007199254740991/,
    )
  })
})

test('a prompt alone takes every published default', () => {
  const { prompt, ...defaults } = FluxInput.parse({ prompt: 'a red circle' })
  const published = Object.entries(seed.Input.properties).filter(([, field]) => 'default' in field)
  expect(prompt).toBe('a red circle')
  expect(defaults).toEqual(
    Object.fromEntries(published.map(([name, field]) => [name, field['default']])),
  )
})

test('an empty prompt is a prompt', () => {
  expect(FluxInput.safeParse({ prompt: '' }).success).toBe(true)
  expect(FluxInput.safeParse({}).success).toBe(false)
})

test.each(
  Object.entries(seed.Input.properties).flatMap(([name, { minimum, maximum }]) =>
    minimum === undefined ? [] : [{ name, minimum: Number(minimum), maximum: Number(maximum) }],
  ),
)('$name goes from $minimum to $maximum, ends included', ({ name, minimum, maximum }) => {
  expect(accepts({ [name]: minimum })).toBe(true)
  expect(accepts({ [name]: maximum })).toBe(true)
  expect(accepts({ [name]: minimum - 1 })).toBe(false)
  expect(accepts({ [name]: maximum + 1 })).toBe(false)
})

test.each([
  { num_outputs: '2' },
  { num_outputs: 1.5 },
  { go_fast: 'true' },
  { megapixels: 1 },
  { megapixels: '2' },
  { model: 'pro' },
  { output_format: 'jpeg' },
  { aspect_ratio: '2:1' },
  { image: 'ftp://example.org/a.png' },
  { mask: '/etc/passwd' },
  { image: '' },
])('nothing is coerced or clamped: %o is refused', (fields) => {
  expect(accepts(fields)).toBe(false)
})

test.each([
  { seed: -1 },
  { seed: 0 },
  { seed: Number.MAX_SAFE_INTEGER },
  { num_outputs: 2.0 },
  { image: 'data:,x' },
  { image: 'HTTPS://example.org/a.png' },
])('%o is accepted', (fields) => {
  expect(accepts(fields)).toBe(true)
})

test('unknown fields are dropped and the hidden replicate_weights is kept', () => {
  const input = FluxInput.parse({ prompt: '', replicate_weights: 'owner/name', lora_weights: 'x' })
  expect(input.replicate_weights).toBe('owner/name')
  expect(input).not.toHaveProperty('lora_weights')
})
