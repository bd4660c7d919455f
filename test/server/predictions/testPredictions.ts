/** The service over a fake engine and real stores in a folder that can be opened again. */
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { FluxInput } from '../../../src/contract/input.js'
import { createFiles, type Files } from '../../../src/files/files.js'
import { withOwnFiles } from '../../../src/files/localFiles.js'
import { createMediaClient } from '../../../src/net/fetchMedia.js'
import type { NewPrediction } from '../../../src/predictions/request.js'
import {
  createPredictions,
  type PredictionOptions,
  type Predictions,
} from '../../../src/server/predictions/service.js'
import { type Database, openDatabase } from '../../../src/store/sqlite/database.js'
import { createFileStore } from '../../../src/store/sqlite/files.js'
import type { LoraLibrary } from '../../../src/worker/assets.js'
import { createFakeEngine, type FakeEngine, type FakeEngineOptions } from '../../fakeEngine.js'
import { temporaryData } from '../../temporaryData.js'

export type TestPredictions = {
  readonly predictions: Predictions
  readonly engine: FakeEngine
  readonly files: Files
  readonly database: Database
  readonly folder: string
  readonly faults: readonly unknown[]
  /** As a killed process would leave it: nothing is written any more. */
  readonly kill: () => void
}

export type TestOptions = Partial<PredictionOptions> & {
  readonly engine?: FakeEngine
  /** Of the engine. */
  readonly fake?: FakeEngineOptions
  readonly folder?: string
}

export function openPredictions({
  fake = {},
  engine = createFakeEngine(fake),
  folder = temporaryData(),
  ...options
}: TestOptions = {}): TestPredictions {
  const database = openDatabase(join(folder, 'fluxd.sqlite'))
  const files = createFiles({
    folder: join(folder, 'files'),
    store: createFileStore(database),
    quota: 2 ** 30,
  })
  const media = createMediaClient()
  const faults: unknown[] = []
  const predictions = createPredictions({
    engine,
    files,
    database,
    media: withOwnFiles(media, files),
    library: libraryOf(() => Promise.reject(new Error('no LoRA is expected here'))),
    settings: { noise: 'torch-cpu', goFastLoraMultiplier: 1.5, safetyChecker: false },
    maxQueue: 1000,
    drainMs: 1000,
    onFault: (error) => void faults.push(error),
    ...options,
  })
  let isKilled = false
  const kill = () => {
    if (!isKilled) database.close()
    isKilled = true
  }
  onTestFinished(async () => {
    await predictions.stop().catch(() => {})
    await media.close()
    kill()
  })
  return { predictions, engine, files, database, folder, faults, kill }
}

/** A request for one picture in two steps. */
export const request = (changes: Partial<NewPrediction> = {}, wish: object = {}): NewPrediction => {
  const sent = { prompt: 'p', seed: 7, num_inference_steps: 2, ...wish }
  return {
    surface: 'replicate',
    model: 'fluxd/flux',
    version: '0'.repeat(64),
    sent,
    wish: FluxInput.parse(sent),
    ...changes,
  }
}

/** A library that fetches like this and has no files of this machine. */
export const libraryOf = (acquire: LoraLibrary['acquire']): LoraLibrary => ({
  acquire,
  open: () => Promise.reject(new Error('no LoRA file is expected here')),
})
