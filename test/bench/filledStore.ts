/** A store as it is after many predictions, each of 28 steps with one picture. */
import { join } from 'node:path'
import { FluxInput } from '../../src/contract/input.js'
import { createPrediction, log, start, succeed } from '../../src/predictions/prediction.js'
import { randomId } from '../../src/store/randomId.js'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { createFileStore } from '../../src/store/sqlite/files.js'
import { createPredictionStore } from '../../src/store/sqlite/predictions.js'
import { progressLine } from '../../src/worker/progressBar.js'

export const wish = {
  prompt: 'a red circle on a blue background, in the manner of a woodcut, with a thin white frame',
  num_inference_steps: 28,
  output_format: 'webp',
}

const steps = 28
const perTransaction = 1000
/** From one prediction to the next. */
export const msPerPrediction = 1000

/** Writes `count` finished predictions, one every `msPerPrediction` until now; returns their ids. No pictures are there. */
export function fillStore(folder: string, count: number): string[] {
  const database = openDatabase(join(folder, 'fluxd.sqlite'))
  const [predictions, files] = [createPredictionStore(database), createFileStore(database)]
  const ids: string[] = []
  const logs = Array.from({ length: steps + 1 }, (_, step) => progressLine(step, steps, step / 20))
  const firstMs = Date.now() - count * msPerPrediction

  function add(): void {
    const createdAt = new Date(firstMs + ids.length * msPerPrediction)
    const id = randomId()
    const origin = {
      id,
      surface: 'replicate',
      model: 'fluxd/flux',
      version: '0'.repeat(64),
    } as const
    const prediction = createPrediction({
      ...origin,
      input: wish,
      createdAt,
      streamToken: randomId(),
    })
    const loras = { main: [], extra: [] }
    predictions.insert({
      prediction,
      wish: { input: FluxInput.parse({ ...wish, seed: ids.length }), loras },
      priority: 0,
    })
    const file = {
      id: randomId(),
      kind: 'output',
      name: 'out-0.webp',
      contentType: 'image/webp',
      size: 100_000,
      md5: '0'.repeat(32),
      sha256: '0'.repeat(64),
      metadata: {},
      predictionId: id,
      createdAt,
    } as const
    files.insert(file)
    const { name, contentType: mimeType, size } = file
    const output = [{ index: 0, name, mimeType, size, fileId: file.id }]
    const run = start(log(prediction, logs.join('\n')), logs.join('\n'), createdAt)
    predictions.save(succeed({ ...run, output }, createdAt))
    ids.push(id)
  }

  while (ids.length < count)
    database.commit(() => {
      for (let i = 0; i < perTransaction && ids.length < count; i++) add()
    })
  database.close()
  return ids
}
