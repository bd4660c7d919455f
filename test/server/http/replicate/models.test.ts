import { PassThrough } from 'node:stream'
import { describe, expect, test, vi } from 'vitest'
import { addModel, dropModel } from '../../../../src/cli/models.js'
import { readConfig } from '../../../../src/config/config.js'
import { startServer, type TestServer } from '../../../conformance/server.js'
import { temporaryData } from '../../../temporaryData.js'

const json = { 'content-type': 'application/json' }
const send = (method: string, body: unknown): RequestInit => ({
  method,
  headers: json,
  body: JSON.stringify(body),
})

const streams = () => ({ stdout: new PassThrough(), stderr: new PassThrough() })

const create = ({ request }: TestServer, fields: object = {}) =>
  request(
    '/v1/models',
    send('POST', {
      owner: 'acme',
      name: 'my-lora',
      visibility: 'private',
      hardware: 'local',
      ...fields,
    }),
  )

test('what `fluxd models` adds and removes counts while the server runs', async () => {
  const dataDir = temporaryData()
  const server = await startServer({ environment: { FLUXD_DATA_DIR: dataDir } })
  const context = { config: readConfig({ FLUXD_DATA_DIR: dataDir }), ...streams() }
  const run = () =>
    server.request('/v1/models/me/mine/predictions', send('POST', { input: { prompt: '' } }))
  // A server looks once a second.
  const soon = (status: number) =>
    vi.waitFor(async () => expect((await run()).status).toBe(status), {
      timeout: 5000,
      interval: 200,
    })
  await soon(404)
  await addModel('me/mine', {}, { ...context, signal: new AbortController().signal })
  await soon(201)
  expect((await server.request('/v1/models')).text).toContain('"name":"mine"')
  await dropModel('me/mine', context)
  await soon(404)
})

describe('a model', () => {
  test('is told with every field, null where fluxd keeps nothing', async () => {
    const server = await startServer()
    const { status, body } = await create(server, { description: 'Mine', github_url: null })
    expect(status).toBe(201)
    expect(body).toEqual({
      url: `${server.url}/v1/models/acme/my-lora`,
      owner: 'acme',
      name: 'my-lora',
      description: 'Mine',
      visibility: 'private',
      is_official: false,
      github_url: null,
      paper_url: null,
      license_url: null,
      cover_image_url: null,
      run_count: 0,
      default_example: null,
      latest_version: {
        id: expect.stringMatching(/^[0-9a-f]{64}$/),
        created_at: body.latest_version.created_at,
        cog_version: '0.9.26',
        openapi_schema: expect.objectContaining({ openapi: '3.0.2' }),
      },
    })
  })

  test('tells how often it was run', async () => {
    const { replicate } = await startServer()
    const input = { prompt: '', num_inference_steps: 1 }
    for (let i = 0; i < 3; i++) await replicate.run('fluxd/flux', { input })
    expect((await replicate.models.get('fluxd', 'flux')).run_count).toBe(3)
  })

  test('publishes its own defaults in the schema of its version', async () => {
    const { services, request } = await startServer()
    const defaults = { num_inference_steps: 8, output_format: 'png' } as const
    await services.catalog.add({ owner: 'acme', name: 'fast' }, { base: 'schnell', defaults })
    const { body } = await request('/v1/models/acme/fast')
    const { schemas } = body.latest_version.openapi_schema.components
    expect(schemas.Input.properties.num_inference_steps).toMatchObject({ default: 8, maximum: 50 })
    expect(schemas.Input.properties.output_format).toMatchObject({
      allOf: [{ $ref: '#/components/schemas/output_format' }],
      default: 'png',
    })
    expect(schemas.Input.properties.model.default).toBe('schnell')
    expect(schemas.output_format.enum).toEqual(['webp', 'jpg', 'png'])
  })

  test('whose name is taken or must not be is a problem', async () => {
    const server = await startServer()
    await create(server)
    expect((await create(server)).body).toMatchObject({
      status: 409,
      detail: 'Expected a new name but there is a model acme/my-lora',
    })
    const escaped = await create(server, { name: '../../../http/escape' })
    expect(escaped.status).toBe(422)
    const incomplete = await server.request('/v1/models', send('POST', { owner: 'a', name: 'b' }))
    expect(incomplete.body.detail).toBe('- visibility is required\n- hardware is required\n')
  })

  test('takes the weights that its creator names, but no file of this machine', async () => {
    const server = await startServer()
    await create(server, { weights_url: '/etc/passwd' })
    const { loras } = server.services.catalog.find('acme', 'my-lora')!
    expect(loras).toEqual([{ source: '/etc/passwd', scale: 1 }])
    const input = { prompt: '', num_inference_steps: 1 }
    await expect(server.replicate.run('acme/my-lora', { input })).rejects.toThrow(
      'Prediction failed: Failed to parse URL',
    )
  })

  test('can be changed, and is another version with other weights', async () => {
    const server = await startServer()
    const { body: before } = await create(server)
    const path = '/v1/models/acme/my-lora'
    const { status, body } = await server.request(
      path,
      send('PATCH', { description: 'Better', readme: '# Mine', github_url: 'https://example.com' }),
    )
    expect(status).toBe(200)
    expect(body).toEqual({ ...before, description: 'Better' })
    expect((await server.request(`${path}/readme`)).text).toBe('# Mine')
    const weights_url = 'huggingface.co/acme/lora'
    const changed = await server.request(path, send('PATCH', { weights_url }))
    expect(changed.body.latest_version.id).not.toBe(before.latest_version.id)
    expect(changed.body.description).toBe('Better')
  })

  test('of fluxd itself can be neither changed nor deleted', async () => {
    const { request } = await startServer()
    for (const options of [send('PATCH', { description: '' }), { method: 'DELETE' }]) {
      const { status, body } = await request('/v1/models/fluxd/flux', options)
      expect(status).toBe(422)
      expect(body.detail).toBe('Expected a model of your own but fluxd/flux comes with fluxd')
    }
  })

  test('that was deleted is no more', async () => {
    const server = await startServer()
    await create(server)
    const path = '/v1/models/acme/my-lora'
    expect((await server.request(path, { method: 'DELETE', headers: json })).status).toBe(204)
    expect((await server.request(path)).status).toBe(404)
    expect((await server.request(path, { method: 'DELETE' })).status).toBe(404)
  })
})

describe('a version', () => {
  test('that is deleted takes its model with it', async () => {
    const server = await startServer()
    const { body: model } = await create(server)
    const path = '/v1/models/acme/my-lora'
    const version = `${path}/versions/${model.latest_version.id}`
    expect((await server.request(version, { method: 'DELETE' })).status).toBe(202)
    expect((await server.request(path)).status).toBe(404)
  })

  test('of a model that comes with fluxd cannot be deleted', async () => {
    const { request, services } = await startServer()
    const { version } = services.catalog.find('fluxd', 'flux')!
    const path = '/v1/models/fluxd/flux/versions'
    const reply = await request(`${path}/${version}`, { method: 'DELETE' })
    expect(reply.status).toBe(422)
    expect(reply.body.detail).toContain('comes with fluxd')
    expect((await request(`${path}/abc`, { method: 'DELETE' })).status).toBe(404)
  })

  test('has the id under which a client asked for it, in any form', async () => {
    const server = await startServer()
    const { catalog } = server.services
    const aliases = [
      '39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b',
      'v1',
      'abc123',
    ]
    await catalog.add({ owner: 'acme', name: 'alias' }, { versionAliases: aliases })
    for (const id of aliases) {
      const version = await server.request(`/v1/models/acme/alias/versions/${id}`)
      expect(version.body.id).toBe(id)
      for (const named of [id, `acme/alias:${id}`]) {
        const created = await server.request(
          '/v1/predictions',
          send('POST', { version: named, input: { prompt: 'p' } }),
        )
        expect([created.status, created.body.version, created.body.model]).toEqual([
          201,
          id,
          'acme/alias',
        ])
      }
    }
  })

  test('belongs to one model, also where another has the same content', async () => {
    const { request, services } = await startServer()
    const twins = []
    for (const name of ['one', 'two'])
      twins.push(await services.catalog.add({ owner: 'acme', name }, {}))
    for (const { name, version } of twins) {
      const reply = await request(
        '/v1/predictions',
        send('POST', { version, input: { prompt: 'p' } }),
      )
      expect(reply.body.model).toBe(`acme/${name}`)
    }
  })
})

test('visibility is what its creator said, public for what comes with fluxd', async () => {
  const server = await startServer()
  expect((await create(server, { visibility: 'public' })).body.visibility).toBe('public')
  expect((await create(server, { name: 'other' })).body.visibility).toBe('private')
  expect((await server.request('/v1/models/fluxd/flux')).body.visibility).toBe('public')
})

test('a deployment can move to another model', async () => {
  const server = await startServer()
  await create(server)
  const { catalog } = server.services
  const release = {
    name: 'mine',
    model: 'fluxd/flux',
    version: catalog.find('fluxd', 'flux')!.version,
    hardware: 'local',
    min_instances: 0,
    max_instances: 1,
  }
  await server.request('/v1/deployments', send('POST', release))
  const path = '/v1/deployments/fluxd/mine'
  const { status, body } = await server.request(path, send('PATCH', { model: 'acme/my-lora' }))
  expect(status).toBe(200)
  expect(body.current_release).toMatchObject({
    number: 2,
    model: 'acme/my-lora',
    version: catalog.find('acme', 'my-lora')!.version,
  })
  const wrong = await server.request(path, send('PATCH', { version: release.version }))
  expect(wrong.status).toBe(422)
})

test('the readme is text, and examples are none', async () => {
  const { request } = await startServer()
  const readme = await request('/v1/models/fofr/shxdo-v2/readme')
  expect(readme.headers.get('content-type')).toBe('text/plain; charset=utf-8')
  expect(readme.text).toMatch(/^# fofr\/shxdo-v2/)
  expect((await request('/v1/models/fluxd/flux/readme')).text).toBe('')
  const { body } = await request('/v1/models/fluxd/flux/examples')
  expect(body).toEqual({ next: null, previous: null, results: [] })
})

test('the list is sorted by age, in the direction asked for', async () => {
  const server = await startServer()
  await create(server)
  const names = async (query: string) => {
    const { body } = await server.request(`/v1/models${query}`)
    return body.results.map(({ name }: { name: string }) => name)
  }
  expect((await names(''))[0]).toBe('my-lora')
  expect((await names('?sort_by=model_created_at&sort_direction=asc')).at(-1)).toBe('my-lora')
  expect((await server.request('/v1/models?sort_direction=up')).status).toBe(422)
})

test('search finds models by the words in their name and description', async () => {
  const server = await startServer()
  await create(server, { description: 'Draws lighthouses' })
  const { body } = await server.request('/v1/search?query=lighthouses&limit=5')
  expect(body).toMatchObject({
    query: 'lighthouses',
    models: [{ model: { name: 'my-lora' }, metadata: {} }],
    collections: [],
    pages: [],
  })
  expect((await server.request('/v1/search?query=x&limit=51')).status).toBe(422)
})

test('a deployment keeps its version, and says so when that is no more', async () => {
  const server = await startServer()
  const { body: model } = await create(server)
  const release = {
    name: 'mine',
    model: 'acme/my-lora',
    version: model.latest_version.id,
    hardware: 'local',
    min_instances: 0,
    max_instances: 1,
  }
  await server.request('/v1/deployments', send('POST', release))
  await server.services.catalog.update(
    { owner: 'acme', name: 'my-lora' },
    { loras: [{ source: 'huggingface.co/acme/lora' }] },
  )
  const path = '/v1/deployments/fluxd/mine/predictions'
  const { status, body } = await server.request(path, send('POST', { input: { prompt: '' } }))
  expect(status).toBe(422)
  expect(body.title).toBe('Invalid version or not permitted')
})

test.each([
  [{ min_instances: 3, max_instances: 2 }, 'Expected min_instances to be at most max_instances'],
  [{ min_instances: 6 }, 'min_instances: Must be less than or equal to 5'],
  [{ version: 'none' }, 'The specified version does not exist'],
  [{ name: 'taken' }, 'there is a deployment fluxd/taken'],
])('a deployment with %j is a problem', async (fields, detail) => {
  const { request, services } = await startServer()
  const { version } = services.catalog.find('fluxd', 'flux')!
  const release = {
    name: 'taken',
    model: 'fluxd/flux',
    version,
    hardware: 'local',
    min_instances: 0,
    max_instances: 5,
  }
  await request('/v1/deployments', send('POST', release))
  const reply = await request('/v1/deployments', send('POST', { ...release, name: 'x', ...fields }))
  expect(reply.status).toBe(422)
  expect(reply.body.detail).toContain(detail)
})

test.each([
  ['GET', '/v1/trainings'],
  ['GET', '/v1/trainings/abc'],
  ['POST', '/v1/trainings/abc/cancel'],
  ['POST', '/v1/models/fluxd/flux/versions/abc/trainings'],
])('%s %s says that there are no trainings', async (method, path) => {
  const { request } = await startServer()
  const reply = await request(path, { method })
  expect(reply.status).toBe(404)
  expect(reply.body.title).toBe('Trainings are not supported')
})
