/** Clients with keys: who may do what, in the words of the contract. */
import Replicate from 'replicate'
import { expect, test } from 'vitest'
import { startServer } from './server.js'

const input = { prompt: '', num_inference_steps: 1 }
const environment = { FLUXD_API_KEY: 'operators-own-key-of-some-length' }
const auth = environment.FLUXD_API_KEY

const withKey = (url: string, key: string) => new Replicate({ auth: key, baseUrl: `${url}/v1` })

test('a key that is none is the 401 of the contract, and no prediction', async () => {
  const { url, request } = await startServer({ environment })
  const stranger = withKey(url, 'r8_wrong')
  await expect(stranger.run('fluxd/flux', { input })).rejects.toThrow('status 401 Unauthorized')
  // Point 8 of the checklist: the client must not go on without its picture.
  const image = Buffer.from('x')
  await expect(stranger.run('fluxd/flux', { input: { ...input, image } })).rejects.toThrow('401')
  const reply = await request('/v1/account')
  expect(reply.headers.get('content-type')).toBe('application/problem+json')
  expect(reply.body).toEqual({
    title: 'Unauthenticated',
    detail: 'You did not pass a valid authentication token',
    status: 401,
  })
  expect((await withKey(url, auth).predictions.list()).results).toEqual([])
})

test.each(['Bearer', 'Token'])('a key is taken as %s', async (scheme) => {
  const { request } = await startServer({ environment })
  const headers = { authorization: `${scheme} ${auth}` }
  expect((await request('/v1/account', { headers })).status).toBe(200)
})

test('images, streams and signed downloads need no key', async () => {
  const { url, request } = await startServer({
    environment: { ...environment, FLUXD_OUTPUT_MODE: 'url' },
  })
  const replicate = withKey(url, auth)
  const created = await replicate.predictions.create({ model: 'fluxd/flux', input, wait: true })
  const file = await replicate.files.create(Buffer.from('x'))
  const { download } = file.urls as unknown as { download: string }
  for (const target of [created.output[0], created.urls.stream, download]) {
    const { pathname, search } = new URL(target)
    expect((await request(pathname + search)).status).toBe(200)
  }
})

test('who may predict may not change models and deployments', async () => {
  const { url, services } = await startServer({ environment })
  const key = await services.keys.issue({
    name: 'app',
    scopes: ['predict'],
    priority: 0,
    ratePerMinute: 0,
  })
  const replicate = withKey(url, key)
  await expect(replicate.run('fluxd/flux', { input })).resolves.toHaveLength(1)
  const create = () =>
    replicate.models.create('acme', 'my-lora', { visibility: 'private', hardware: 'local' })
  await expect(create()).rejects.toThrow('status 403')
  await expect(replicate.deployments.delete('fluxd', 'mine')).rejects.toThrow('status 403')
})

test('a key that asks too often is told when it may ask again', async () => {
  const { url, services, request } = await startServer({ environment })
  const key = await services.keys.issue({
    name: 'app',
    scopes: ['predict'],
    priority: 0,
    ratePerMinute: 1,
  })
  const replicate = withKey(url, key)
  await replicate.predictions.create({ model: 'fluxd/flux', input })
  const reply = await request('/v1/models/fluxd/flux/predictions', {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ input }),
  })
  expect(reply.status).toBe(429)
  expect(reply.headers.get('retry-after')).toMatch(/^\d+$/)
  expect(reply.body.detail).toMatch(/^Request was throttled\. Expected available in \d+ seconds\.$/)
})
