/** The 422 bodies of both surfaces, word for word. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { postJson, startServer } from './server.js'

type Case = {
  readonly name: string
  readonly request: { readonly version?: string }
  readonly replicate: object
  readonly cog?: object
}

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, 'golden422.json'), 'utf8')) as {
  cases: readonly Case[]
}

test.each(cases)('/v1 says what is wrong with $name', async ({ request: sent, replicate }) => {
  const { request, engine } = await startServer()
  const path = sent.version === undefined ? '/v1/models/fluxd/flux/predictions' : '/v1/predictions'
  const reply = await request(path, postJson(sent))
  expect(reply.status).toBe(422)
  expect(reply.headers.get('content-type')).toBe('application/problem+json')
  expect(reply.body).toEqual(replicate)
  expect(engine.plans).toEqual([])
})

test.each(cases.filter(({ cog }) => cog))(
  '/predictions says what is wrong with $name',
  async ({ request: sent, cog }) => {
    const { request, engine } = await startServer()
    const reply = await request('/predictions', postJson(sent))
    expect(reply.status).toBe(422)
    expect(reply.body).toEqual(cog)
    expect(engine.plans).toEqual([])
  },
)
