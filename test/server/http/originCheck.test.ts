/** What web pages can do to a server without a key: nothing, unless the settings name them. */
import { describe, expect, test, vi } from 'vitest'
import { buildTestApp } from './testApp.js'

const page = { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }
const form = (fields: Record<string, string>) => ({
  headers: { 'content-type': 'multipart/form-data; boundary=x' },
  payload: `${Object.entries(fields)
    .map(
      ([name, value]) =>
        `--x\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`,
    )
    .join('')}--x--\r\n`,
})

const send = async (
  headers: Record<string, string>,
  url = '/v1/predictions',
  environment: Record<string, string> = {},
) => {
  const { app } = await buildTestApp({}, undefined, environment)
  return app.inject({ url, headers })
}

describe('a page of another site', () => {
  test('cannot end the server', async () => {
    const shutdown = vi.fn()
    const { app } = await buildTestApp({}, undefined, {}, shutdown)
    const reply = await app.inject({ method: 'POST', url: '/shutdown', headers: page })
    expect(reply.statusCode).toBe(403)
    expect(reply.json().detail).toContain('https://evil.example')
    expect(shutdown).not.toHaveBeenCalled()
  })

  test.each(['/predictions', '/v1/models/fluxd/flux/predictions', '/v1/files'])(
    'cannot send a form to %s',
    async (url) => {
      const { app, engine } = await buildTestApp()
      const { headers, payload } = form({ prompt: 'mine' })
      const reply = await app.inject({
        method: 'POST',
        url,
        payload,
        headers: { ...headers, ...page },
      })
      expect(reply.statusCode).toBe(403)
      expect(engine.plans).toHaveLength(0)
    },
  )

  test.each([
    { origin: 'null' },
    { origin: 'http://localhost:3000' },
    { origin: 'http://localhost.evil.example' },
    { origin: 'file://' },
    { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' },
    { 'sec-fetch-site': 'same-site' },
    { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' },
  ])('is known by %o', async (headers) => {
    expect((await send({ host: 'localhost:5000', ...headers })).statusCode).toBe(403)
  })

  test.each(['/', '/livez', '/health-check', '/docs/json'])(
    'may see %s, which holds nothing of anybody',
    async (url) => expect((await send(page, url)).statusCode).toBe(200),
  )
})

describe('a name that resolves to this machine', () => {
  test.each([
    'evil.example',
    'evil.example:5000',
    'localhost.evil.example',
    'localhost@evil.example',
    '127.0.0.1.evil.example',
    '10.0.0.1',
    '[::2]:5000',
    '',
  ])('%j reads nothing', async (host) => {
    for (const url of ['/v1/predictions', '/v1/webhooks/default/secret', '/metrics'])
      expect((await send({ host, origin: `http://${host}` }, url)).statusCode).toBe(403)
  })
})

describe('served are', () => {
  test.each(['localhost', 'LOCALHOST:5000', 'me.localhost:80', '127.0.0.1:5000', '[::1]:5000'])(
    'programs of this machine, by %s',
    async (host) => expect((await send({ host })).statusCode).toBe(200),
  )

  test('its own pages', async () => {
    const headers = {
      host: 'localhost:5000',
      origin: 'http://localhost:5000',
      'sec-fetch-site': 'same-origin',
    }
    expect((await send(headers)).statusCode).toBe(200)
    expect((await send({ 'sec-fetch-site': 'none' })).statusCode).toBe(200)
  })

  test('links to it', async () => {
    const link = {
      'sec-fetch-site': 'cross-site',
      'sec-fetch-mode': 'navigate',
      'sec-fetch-dest': 'document',
    }
    expect((await send(link)).statusCode).toBe(200)
  })

  test('the host of FLUXD_PUBLIC_URL and its pages', async () => {
    const environment = { FLUXD_PUBLIC_URL: 'https://images.example/fluxd' }
    const headers = { host: 'images.example', origin: 'https://images.example' }
    expect((await send(headers, '/v1/predictions', environment)).statusCode).toBe(200)
    expect((await send({ host: 'evil.example' }, '/v1/predictions', environment)).statusCode).toBe(
      403,
    )
  })

  test('the pages of FLUXD_CORS_ORIGINS', async () => {
    const environment = { FLUXD_CORS_ORIGINS: 'https://studio.example' }
    const studio = { origin: 'https://studio.example', 'sec-fetch-site': 'cross-site' }
    expect((await send(studio, '/v1/predictions', environment)).statusCode).toBe(200)
    expect((await send(page, '/v1/predictions', environment)).statusCode).toBe(403)
  })

  test('all pages where the setting is *, but for the routes of an admin', async () => {
    const shutdown = vi.fn()
    const { app } = await buildTestApp({}, undefined, { FLUXD_CORS_ORIGINS: '*' }, shutdown)
    expect((await app.inject({ url: '/v1/predictions', headers: page })).statusCode).toBe(200)
    const reply = await app.inject({ method: 'POST', url: '/shutdown', headers: page })
    expect(reply.statusCode).toBe(403)
    expect(shutdown).not.toHaveBeenCalled()
  })

  test('every host and page with a key', async () => {
    const { app, services } = await buildTestApp()
    const key = await services.keys.issue({
      name: 'page',
      scopes: ['predict'],
      priority: 0,
      ratePerMinute: 0,
    })
    const headers = { ...page, host: 'images.example', authorization: `Bearer ${key}` }
    expect((await app.inject({ url: '/v1/predictions', headers })).statusCode).toBe(200)
  })
})
