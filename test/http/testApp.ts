/** The app over a fake engine, closed when the test ends. */
import type { FastifyInstance } from 'fastify'
import { onTestFinished } from 'vitest'
import { buildApp } from '../../src/app.js'
import type { MediaClient } from '../../src/media/fetch.js'
import { createFakeEngine, type FakeEngine, type FakeEngineOptions } from '../fakeEngine.js'

export type TestApp = {
  readonly app: FastifyInstance
  readonly engine: FakeEngine
  readonly predict: (body: object) => Promise<{ status: number; body: PredictionBody }>
}

// biome-ignore lint/suspicious/noExplicitAny: a body is what the test says it is
type PredictionBody = any

export function buildTestApp(options: FakeEngineOptions = {}, media?: MediaClient): TestApp {
  const engine = createFakeEngine(options)
  const app = buildApp({ config: { noise: 'torch-cpu' }, engine, ...(media && { media }) })
  onTestFinished(() => app.close())
  const predict = async (payload: object) => {
    const reply = await app.inject({ method: 'POST', url: '/predictions', payload })
    return { status: reply.statusCode, body: reply.json() }
  }
  return { app, engine, predict }
}
