/** The service and a worker over fake engines and a real store in a folder that can be opened again. */
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { FluxInput } from '../../../src/contract/input.js'
import { createFiles, type Files } from '../../../src/files/files.js'
import { withLocalFiles } from '../../../src/files/localFiles.js'
import { createMediaClient } from '../../../src/net/fetchMedia.js'
import { resolveSeed } from '../../../src/plan/seed.js'
import type { EventHook } from '../../../src/predictions/feed.js'
import type { PredictionRequest } from '../../../src/predictions/request.js'
import { createPredictions, type Predictions } from '../../../src/server/predictions/service.js'
import { openSqliteStore } from '../../../src/store/sqlite/open.js'
import type { Store } from '../../../src/store/store.js'
import { createMetrics } from '../../../src/telemetry/metrics.js'
import type { LoraSource } from '../../../src/worker/assets.js'
import type { Engine } from '../../../src/worker/engine/client.js'
import { startWorker } from '../../../src/worker/worker.js'
import { createFakeEngine, type FakeEngine, type FakeEngineOptions } from '../../fakeEngine.js'
import { temporaryData } from '../../temporaryData.js'

export type TestPredictions = {
  readonly predictions: Predictions
  readonly engine: FakeEngine
  readonly files: Files
  readonly store: Store
  readonly folder: string
  readonly faults: readonly unknown[]
  /** As a killed process would leave it: nothing is written any more. */
  readonly kill: () => void
}

export type TestOptions = {
  readonly engine?: FakeEngine
  /** All engines, where there are several executors; the first one by default. */
  readonly engines?: readonly Engine[]
  /** Whether one is installed. */
  readonly safetyChecker?: boolean
  /** Of the engine. */
  readonly fake?: FakeEngineOptions
  readonly folder?: string
  readonly loras?: LoraSource
  readonly maxQueue?: number
  readonly drainMs?: number
  readonly patienceMs?: number
  readonly onEvent?: EventHook
  /** What stands between the service or the worker and the store. */
  readonly wrap?: (store: Store) => Store
}

export async function openPredictions({
  fake = {},
  engine = createFakeEngine(fake),
  engines = [engine],
  folder = temporaryData(),
  loras = lorasOf(() => Promise.reject(new Error('no LoRA is expected here'))),
  onEvent = () => {},
  safetyChecker = false,
  wrap = (store) => store,
  ...options
}: TestOptions = {}): Promise<TestPredictions> {
  const store = openSqliteStore(join(folder, 'fluxd.sqlite'))
  const files = await createFiles({
    folder: join(folder, 'files'),
    store: store.files,
    quota: 2 ** 30,
  })
  const media = createMediaClient()
  const faults: unknown[] = []
  let isKilled = false
  const onFault = (error: unknown) => {
    if (!isKilled) faults.push(error)
  }
  const settings = { noise: 'torch-cpu', goFastLoraMultiplier: 1.5, safetyChecker } as const
  const wrapped = wrap(store)
  const worker = startWorker({
    engines: engines.map((each) => ({ engine: each })),
    store: wrapped,
    files,
    loras,
    media: withLocalFiles(media, files),
    settings,
    metrics: createMetrics({ version: '0', ort: '0' }),
    patienceMs: options.patienceMs ?? 10_000,
    onFault,
  })
  worker.feed.observe(onEvent)
  const predictions = createPredictions({
    worker,
    store: wrapped,
    files,
    settings,
    maxQueue: options.maxQueue ?? 1000,
    drainMs: options.drainMs ?? 1000,
    onEvent,
    onFault,
  })
  const kill = () => {
    isKilled = true
    store.close()
  }
  onTestFinished(async () => {
    // A killed store can no longer give back what was held.
    await predictions.stop().catch(() => {})
    await media.close()
    kill()
  })
  return { predictions, engine, files, store, folder, faults, kill }
}

/** A request for one picture in two steps. */
export const request = (
  changes: Partial<PredictionRequest> = {},
  fields: object = {},
): PredictionRequest => {
  const sent = { prompt: 'p', seed: 7, num_inference_steps: 2, ...fields }
  const input = FluxInput.parse(sent)
  return {
    surface: 'replicate',
    model: 'fluxd/flux',
    version: '0'.repeat(64),
    inputEcho: sent,
    input: { ...input, seed: resolveSeed(input) },
    loras: [],
    ...changes,
  }
}

/** LoRAs that are fetched like this; there are no files of this machine. */
export const lorasOf = (acquire: LoraSource['acquire']): LoraSource => ({
  acquire,
  open: () => Promise.reject(new Error('no LoRA file is expected here')),
})
