/** Keys over the whole surface: who gets in, where, and how often. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { describe, expect, test, vi } from 'vitest'
import type { NewKey } from '../../../src/server/auth/apiKeys.js'
import { chooseHost, isLoopback } from '../../../src/server/auth/listenHost.js'
import { buildTestApp } from './testApp.js'

const everything = { scopes: ['predict'], priority: 0, ratePerMinute: 0 } as const

async function buildGuardedApp(changes: Partial<NewKey> = {}) {
  const { app, services, dataDir } = await buildTestApp()
  const key = await services.keys.issue({ name: 'client', ...everything, ...changes })
  const send = (
    method: 'GET' | 'POST' | 'DELETE',
    url: string,
    authorization?: string,
    payload: object | undefined = method === 'POST' ? { input: { prompt: 'p' } } : undefined,
  ) =>
    app.inject({
      method,
      url,
      ...(payload && { payload }),
      headers: authorization === undefined ? {} : { authorization },
    })
  return { app, services, dataDir, send, bearer: `Bearer ${key}` }
}

describe('without any key', () => {
  test('this machine may do everything, whatever it sends as a token', async () => {
    const { app } = await buildTestApp()
    const headers = { authorization: 'Bearer r8_whatever' }
    for (const url of ['/v1/predictions', '/metrics', '/v1/account'])
      expect((await app.inject({ url, headers })).statusCode).toBe(200)
  })

  test('tokens that differ with each request are not slowed', async () => {
    const { app } = await buildTestApp()
    for (let i = 0; i < 50; i++) {
      const headers = { authorization: `Bearer r8_${i}` }
      expect((await app.inject({ url: '/v1/account', headers })).statusCode).toBe(200)
    }
  })

  test('a server that others can reach lets nobody in', async () => {
    const { app } = await buildTestApp({}, undefined, { FLUXD_HOST: '0.0.0.0' })
    expect((await app.inject('/v1/predictions')).statusCode).toBe(401)
  })

  test('it listens on this machine only, whatever the settings say', () => {
    expect(chooseHost('0.0.0.0', false)).toBe('127.0.0.1')
    expect(chooseHost('::', false)).toBe('127.0.0.1')
    expect(chooseHost('localhost', false)).toBe('localhost')
    expect(chooseHost('0.0.0.0', true)).toBe('0.0.0.0')
  })

  test.each(['127.0.0.1', '127.1.2.3', '::1', '::ffff:127.0.0.1', 'localhost'])(
    '%s is this machine',
    (host) => expect(isLoopback(host)).toBe(true),
  )

  test.each(['0.0.0.0', '::', '10.0.0.1', 'example.com'])('%s is not', (host) =>
    expect(isLoopback(host)).toBe(false),
  )
})

describe('with a key', () => {
  test('who sends none gets the 401 of the surface', async () => {
    const { send } = await buildGuardedApp()
    const replicate = await send('GET', '/v1/predictions')
    expect(replicate.statusCode).toBe(401)
    expect(replicate.headers['content-type']).toContain('application/problem+json')
    expect(replicate.json()).toEqual({
      title: 'Unauthenticated',
      detail: 'You did not pass a valid authentication token',
      status: 401,
    })
    const cog = await send('POST', '/predictions')
    expect([cog.statusCode, cog.json()]).toEqual([
      401,
      { detail: 'You did not pass a valid authentication token' },
    ])
  })

  test('a 401 names the scheme', async () => {
    const { send } = await buildGuardedApp()
    for (const url of ['/v1/predictions', '/metrics'])
      expect((await send('GET', url)).headers['www-authenticate']).toBe('Bearer')
  })

  test('wrong keys are slowed, the right one is not', async () => {
    const { send, bearer } = await buildGuardedApp()
    expect((await send('GET', '/v1/predictions', bearer)).statusCode).toBe(200)
    const guesses = await Promise.all(
      Array.from({ length: 100 }, (_, i) => send('GET', '/v1/predictions', `Bearer guess-${i}`)),
    )
    const slowed = guesses.filter(({ statusCode }) => statusCode === 429)
    // One more is let through each second that the guesses take.
    expect(slowed.length).toBeGreaterThan(50)
    expect(guesses.filter(({ statusCode }) => statusCode === 401)).toHaveLength(
      guesses.length - slowed.length,
    )
    expect(Number(slowed[0]!.headers['retry-after'])).toBeGreaterThan(0)
    expect((await send('GET', '/v1/predictions', bearer)).statusCode).toBe(200)
  })

  test('no body is read before the key is', async () => {
    const { app } = await buildGuardedApp()
    const reply = await app.inject({
      method: 'POST',
      url: '/v1/predictions',
      headers: { 'content-type': 'application/json' },
      payload: '{ this is no JSON',
    })
    expect(reply.statusCode).toBe(401)
  })

  test.each(['/', '/health-check', '/livez', '/readyz', '/openapi.json', '/docs/'])(
    '%s needs none',
    async (url) => {
      const { send } = await buildGuardedApp()
      expect([200, 503]).toContain((await send('GET', url)).statusCode)
    },
  )

  test('an output needs none: its name is known to nobody else', async () => {
    const { send, bearer } = await buildGuardedApp()
    const created = await send('POST', '/v1/models/fluxd/flux/predictions', bearer)
    const { id } = created.json()
    const prediction = await vi.waitFor(async () => {
      const found = (await send('GET', `/v1/predictions/${id}`, bearer)).json()
      expect(found.status).toBe('succeeded')
      return found
    })
    const { pathname } = new URL(prediction.output[0])
    expect((await send('GET', pathname)).statusCode).toBe(200)
    expect((await send('GET', pathname, 'Bearer anything')).statusCode).toBe(200)
    expect((await send('GET', pathname.replace(/[a-z0-9]{3}\//, 'xxx/'))).statusCode).toBe(404)
  })

  test.each<[string, 'GET' | 'POST' | 'DELETE', number]>([
    ['/metrics', 'GET', 403],
    ['/shutdown', 'POST', 403],
    ['/v1/models/fofr/shxdo-v2', 'DELETE', 403],
    ['/v1/models', 'GET', 200],
    ['/v1/predictions', 'GET', 200],
  ])('one for predictions gets at %s %s: %i', async (url, method, status) => {
    const { send, bearer } = await buildGuardedApp()
    const reply = await send(method, url, bearer)
    expect(reply.statusCode).toBe(status)
    if (status === 403) expect(reply.json().detail).toMatch(/^Expected a key with scope \w+ but/)
  })

  test('one for metrics reads metrics and makes nothing', async () => {
    const { send, bearer } = await buildGuardedApp({ scopes: ['metrics'] })
    expect((await send('GET', '/metrics', bearer)).body).toContain('fluxd_num_requests_waiting 0')
    expect((await send('POST', '/predictions', bearer)).statusCode).toBe(403)
  })

  test('it ends when it is revoked, while the server runs', async () => {
    const { send, bearer, services } = await buildGuardedApp()
    expect((await send('GET', '/v1/predictions', bearer)).statusCode).toBe(200)
    await services.keys.issue({ name: 'other', ...everything })
    await services.keys.revoke('client')
    expect((await send('GET', '/v1/predictions', bearer)).statusCode).toBe(401)
  })

  test('nothing of it is echoed or stored with a prediction', async () => {
    const { send, bearer, dataDir } = await buildGuardedApp()
    const reply = await send('POST', '/v1/models/fluxd/flux/predictions', bearer)
    const secret = bearer.slice(-20)
    expect(reply.body).not.toContain(secret)
    expect(readFileSync(join(dataDir, 'fluxd.sqlite')).includes(secret)).toBe(false)
  })
})

describe('a rate', () => {
  test('lets through as many of a burst as it allows, and no fewer', async () => {
    const { send, bearer } = await buildGuardedApp({ ratePerMinute: 2 })
    const burst = Array.from({ length: 5 }, () =>
      send('POST', '/v1/models/fluxd/flux/predictions', bearer),
    )
    const replies = await Promise.all(burst)
    expect(
      replies.map(({ statusCode, headers }) => [statusCode, headers['ratelimit-remaining']]),
    ).toEqual([
      [201, '1'],
      [201, '0'],
      [429, '0'],
      [429, '0'],
      [429, '0'],
    ])
  })

  const create = (app: FastifyInstance, authorization: string) =>
    app.inject({
      method: 'POST',
      url: '/v1/models/fluxd/flux/predictions',
      headers: { authorization },
      payload: { input: { prompt: 'p' } },
    })

  test('is that of new predictions, told in headers and in words', async () => {
    const { app, bearer } = await buildGuardedApp({ ratePerMinute: 2 })
    const replies = [
      await create(app, bearer),
      await create(app, bearer),
      await create(app, bearer),
    ]
    expect(replies.map(({ statusCode }) => statusCode)).toEqual([201, 201, 429])
    expect(replies[0]!.headers).toMatchObject({ 'ratelimit-remaining': '1' })
    const { headers, ...last } = replies[2]!
    expect(Number(headers['retry-after'])).toBeGreaterThan(0)
    expect(headers['content-type']).toContain('application/problem+json')
    expect(last.json().detail).toMatch(
      /^Request was throttled\. Expected available in \d+ seconds?\.$/,
    )
  })

  test('of one key is not that of another, nor that of reading', async () => {
    const { app, services, bearer, send } = await buildGuardedApp({ ratePerMinute: 1 })
    const other = await services.keys.issue({ name: 'other', ...everything, ratePerMinute: 1 })
    await create(app, bearer)
    expect((await create(app, bearer)).statusCode).toBe(429)
    expect((await create(app, `Bearer ${other}`)).statusCode).toBe(201)
    const reads = []
    for (let i = 0; i < 6; i++) reads.push(await send('GET', '/v1/predictions', bearer))
    expect(reads.map(({ statusCode }) => statusCode)).toEqual([200, 200, 200, 200, 200, 429])
  })
})

describe('web pages of other origins', () => {
  const origin = 'https://app.example'
  const ask = (app: FastifyInstance) =>
    app.inject({
      method: 'OPTIONS',
      url: '/v1/predictions',
      headers: { origin, 'access-control-request-method': 'POST' },
    })

  test('are not let in unasked', async () => {
    const { app } = await buildTestApp()
    expect((await ask(app)).headers).not.toHaveProperty('access-control-allow-origin')
  })

  test('are let in where the settings name them, and need a key as everybody does', async () => {
    const { app, services } = await buildTestApp({}, undefined, { FLUXD_CORS_ORIGINS: origin })
    await services.keys.issue({ name: 'client', ...everything })
    const preflight = await ask(app)
    expect(preflight.statusCode).toBe(204)
    expect(preflight.headers).toMatchObject({
      'access-control-allow-origin': origin,
      'access-control-allow-methods': expect.stringContaining('POST'),
    })
    const reply = await app.inject({ url: '/v1/predictions', headers: { origin } })
    expect(reply.statusCode).toBe(401)
    expect(reply.headers).toMatchObject({ 'access-control-allow-origin': origin })
  })
})

test.each(['/health-check', '/none', '/v1/none', '/%ff', `/predictions/${'x'.repeat(700)}`])(
  'the reply to %s carries the headers that browsers heed',
  async (url) => {
    const { app } = await buildTestApp()
    const { headers } = await app.inject(url)
    expect(headers).toMatchObject({
      'x-content-type-options': 'nosniff',
      'content-security-policy': expect.stringContaining("default-src 'none'"),
    })
  },
)

test('images may be shown by any page', async () => {
  const { app } = await buildTestApp()
  const { headers } = await app.inject('/health-check')
  expect(headers['cross-origin-resource-policy']).toBe('cross-origin')
})

test('an unknown path is a 404 for pages of other origins too', async () => {
  const { app } = await buildTestApp({}, undefined, { FLUXD_CORS_ORIGINS: 'https://a.example' })
  for (const url of ['/none', '/v1/none']) expect((await app.inject(url)).statusCode).toBe(404)
})
