import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { expect, test } from 'vitest'
import { releaseConnections } from '../../../src/server/http/gracefulClose.js'
import { createGate } from '../../gate.js'

async function listen(app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as AddressInfo).port
}

test('a connection without a request does not hold up the end of a server', async () => {
  const app = Fastify()
  releaseConnections(app)
  const socket = connect(await listen(app), '127.0.0.1')
  await once(socket, 'connect')
  const closed = once(socket, 'close')
  await app.close()
  await closed
})

test('a reply that is on its way is sent to its end', async () => {
  const app = Fastify()
  releaseConnections(app)
  let answer = (_text: string) => {}
  const asked = new Promise<void>((resolve) => {
    app.get('/', () => {
      resolve()
      return new Promise<string>((reply) => {
        answer = reply
      })
    })
  })
  const reply = fetch(`http://127.0.0.1:${await listen(app)}/`)
  await asked
  const closed = app.close()
  await new Promise((resolve) => setTimeout(resolve, 150))
  answer('all of it')
  expect(await (await reply).text()).toBe('all of it')
  await closed
})

test('a client that has hung up does not hold up the end of a server', async () => {
  const app = Fastify()
  releaseConnections(app)
  const hangUp = new AbortController()
  const [asked, answered] = [createGate(), createGate()]
  app.get('/', async () => {
    asked.open()
    await answered.promise
    return 'nobody reads this'
  })
  const origin = `http://127.0.0.1:${await listen(app)}`
  const reply = fetch(origin, { signal: hangUp.signal }).catch(() => 'hung up')
  await asked.promise
  hangUp.abort()
  expect(await reply).toBe('hung up')
  answered.open()
  const next = connect(Number(new URL(origin).port), '127.0.0.1')
  await once(next, 'connect')
  const beganAtMs = performance.now()
  await app.close()
  // A few milliseconds; Node alone would wait for more than a minute.
  expect(performance.now() - beganAtMs).toBeLessThan(30_000)
})

test('a server that never listened closes too', async () => {
  const app = Fastify()
  releaseConnections(app)
  app.get('/', () => 'here')
  expect((await app.inject('/')).body).toBe('here')
  await app.close()
})
