/** A store as it is after many predictions, each of 28 steps with one picture. */
import { join } from 'node:path'
import { FluxInput } from '../../src/contract/input.js'
import type { Prediction } from '../../src/contract/prediction.js'
import { createPrediction, start, succeed } from '../../src/predictions/prediction.js'
import { randomId } from '../../src/store/randomId.js'
import { openSqliteStore } from '../../src/store/sqlite/open.js'
import type { Store } from '../../src/store/store.js'
import { progressLine } from '../../src/worker/logLines.js'

export const wish = {
  prompt: 'a red circle on a blue background, in the manner of a woodcut, with a thin white frame',
  num_inference_steps: 28,
  output_format: 'webp',
}

const steps = 28
const perTransaction = 1000
/** From one prediction to the next. */
export const msPerPrediction = 1000

/**
 * Writes `count` finished predictions, one every `msPerPrediction` until now; returns their ids. Their
 * images are not there.
 */
export async function fillStore(folder: string, count: number): Promise<string[]> {
  const store = openSqliteStore(join(folder, 'fluxd.sqlite'))
  const firstMs = Date.now() - count * msPerPrediction
  const ids: string[] = []
  while (ids.length < count) {
    const batch = Array.from({ length: Math.min(perTransaction, count - ids.length) }, (_, i) =>
      describe(new Date(firstMs + (ids.length + i) * msPerPrediction)),
    )
    await admitAll(store, batch)
    await settleAll(store, batch.length)
    ids.push(...batch.map(({ id }) => id))
  }
  store.close()
  return ids
}

const describe = (createdAt: Date): Prediction =>
  createPrediction({
    id: randomId(),
    surface: 'replicate',
    model: 'fluxd/flux',
    version: '0'.repeat(64),
    input: wish,
    createdAt,
    streamToken: randomId(),
  })

const admitAll = (store: Store, batch: readonly Prediction[]) =>
  Promise.all(
    batch.map((prediction) =>
      store.predictions.admit({
        prediction,
        work: { input: FluxInput.parse({ ...wish, seed: 1 }), loras: [] },
        priority: 0,
        cost: { kind: 'dev bf16', tokens: 4096, stepTokens: steps * 4096 },
        loraSet: '',
        maxWaiting: perTransaction,
      }),
    ),
  )

async function settleAll(store: Store, count: number): Promise<void> {
  const settling: Promise<unknown>[] = []
  for (let n = 0; n < count; n++) {
    const held = (await store.predictions.claim({ executor: 'filler', patienceMs: 0 }))!
    const { id, createdAt } = held.prediction
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
    const { name, contentType: mimeType, size } = file
    const output = [{ index: 0, name, mimeType, size, fileId: file.id }]
    const run = start(held.prediction, logs.join('\n'), createdAt)
    settling.push(store.files.insert(file))
    settling.push(store.predictions.settle(held.claim, succeed({ ...run, output }, createdAt)))
  }
  await Promise.all(settling)
}

const logs = Array.from({ length: steps + 1 }, (_, step) => progressLine(step, steps, step / 20))
