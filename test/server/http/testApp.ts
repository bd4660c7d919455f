/** The app over a fake engine and real services in a folder of its own; all ends with the test. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { onTestFinished } from 'vitest'
import { openCatalog } from '../../../src/catalog/catalog.js'
import { type Environment, readConfig } from '../../../src/config/config.js'
import type { MediaClient } from '../../../src/net/fetchMedia.js'
import { buildApp } from '../../../src/server/app.js'
import { createServices, type Services } from '../../../src/server/context.js'
import { createFakeEngine, type FakeEngine, type FakeEngineOptions } from '../../fakeEngine.js'
import { startTestWorker } from '../../testWorker.js'

export type TestApp = {
  readonly app: FastifyInstance
  readonly engine: FakeEngine
  readonly services: Services
  readonly dataDir: string
  readonly predict: (body: object) => Promise<{ status: number; body: PredictionBody }>
}

// biome-ignore lint/suspicious/noExplicitAny: a body is what the test says it is
type PredictionBody = any

const { catalog: folders, checkpoints } = readConfig({})
const catalog = await openCatalog({ folders: { ...folders, own: '/nowhere' }, checkpoints })

/** `environment` are settings other than the defaults, as `FLUXD_*` variables. */
export async function buildTestApp(
  options: FakeEngineOptions = {},
  media?: MediaClient,
  environment: Environment = {},
  shutdown: () => void = () => {},
): Promise<TestApp> {
  const engine = createFakeEngine(options)
  const dataDir = mkdtempSync(join(tmpdir(), 'fluxd-app-'))
  const config = readConfig({ FLUXD_DATA_DIR: dataDir, FLUXD_NOISE: 'torch-cpu', ...environment })
  const opened = await createServices(config, catalog)
  const services = { ...opened, ...(media && { media }) }
  const { worker, metrics } = startTestWorker([engine], services, config)
  const app = buildApp({ config, worker, metrics, services, shutdown })
  onTestFinished(async () => {
    await app.close()
    await opened.close()
    rmSync(dataDir, { recursive: true })
  })
  const predict = async (payload: object) => {
    const reply = await app.inject({ method: 'POST', url: '/predictions', payload })
    return { status: reply.statusCode, body: reply.json() }
  }
  return { app, engine, services, dataDir, predict }
}
