/** The two OpenAPI documents say what the server does, in the dialect that they name. */
import { Ajv } from 'ajv'
import type { OpenAPIV3 } from 'openapi-types'
import { describe, expect, test } from 'vitest'
import { buildTestApp } from './testApp.js'

async function read(url: string): Promise<OpenAPIV3.Document> {
  const { app } = await buildTestApp()
  return (await app.inject(url)).json()
}

const operationsOf = ({ paths }: OpenAPIV3.Document) =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods as Record<string, OpenAPIV3.OperationObject>).map(
      ([method, operation]) => ({ name: `${method} ${path}`, operation }),
    ),
  )

describe.each(['/docs/json', '/openapi.json'])('%s', (url) => {
  test('has servers, and says of every operation whether it needs a key', async () => {
    const document = await read(url)
    expect(document.servers).toHaveLength(1)
    for (const { operation } of operationsOf(document))
      expect(operation.security ?? document.security).toBeDefined()
  })

  test('names every operation once', async () => {
    const ids = operationsOf(await read(url)).map(({ operation }) => operation.operationId)
    expect(ids).not.toContain(undefined)
    expect(new Set(ids).size).toBe(ids.length)
  })

  test('has a type wherever something may be null', async () => {
    const untyped: string[] = []
    JSON.stringify(await read(url), (key, value) => {
      if (value?.nullable === true && value.type === undefined) untyped.push(key)
      return value
    })
    expect(untyped).toEqual([])
  })
})

test.each([
  ['post /v1/predictions', [201, 202, 400, 401, 403, 413, 415, 422, 429, 503, 507]],
  ['post /v1/files', [201, 413, 415, 422]],
  ['delete /v1/files/{id}', [204, 404]],
  ['post /v1/models', [201, 422]],
  ['delete /v1/models/{owner}/{name}', [204, 404]],
  ['delete /v1/models/{owner}/{name}/versions/{version}', [202, 404]],
  ['delete /v1/deployments/{owner}/{name}', [204, 404]],
  ['post /v1/predictions/{id}/deliveries', [201, 404, 422]],
  ['post /predictions', [200, 202, 409, 422, 429, 503]],
  ['get /files/{id}/{name}', [200, 206, 304, 404, 416]],
  ['get /readyz', [200, 503]],
])('%s has the statuses %j', async (name, statuses) => {
  const found = operationsOf(await read('/docs/json')).find((each) => each.name === name)
  const documented = Object.keys(found!.operation.responses)
  expect(documented).toEqual(expect.arrayContaining([...statuses.map(String), 'default']))
  for (const status of documented.filter((each) => each.startsWith('2')))
    expect(statuses).toContain(Number(status))
})

test('an upload is a form', async () => {
  const found = operationsOf(await read('/docs/json')).find(({ name }) => name === 'post /v1/files')
  const { content } = found!.operation.requestBody as OpenAPIV3.RequestBodyObject
  const { schema } = content['multipart/form-data']!
  expect(schema).toMatchObject({ properties: { content: { type: 'string', format: 'binary' } } })
})

test('a prediction without output is one', async () => {
  const { components } = await read('/openapi.json')
  const { output } = (components!.schemas!['PredictionResponse'] as OpenAPIV3.SchemaObject)
    .properties as Record<string, object>
  const isValid = new Ajv({ strict: false, validateFormats: false }).compile(output!)
  expect(isValid(null)).toBe(true)
  expect(isValid(['data:image/webp;base64,'])).toBe(true)
  expect(isValid('x')).toBe(false)
})
