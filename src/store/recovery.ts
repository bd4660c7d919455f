/**
 * What a server finds unfinished when it starts: it runs again, with its seed, in the order in which
 * it was admitted. Work that a server has begun and not ended too often may be what ends servers.
 */
import type { Prediction } from '../contract/prediction.js'
import { fail } from '../predictions/prediction.js'
import type { Database } from './sqlite/database.js'
import type { PredictionStore, UnfinishedPrediction } from './sqlite/predictions.js'

const maxServerStarts = 20

/** Those that are to run, in order. The others fail, and are told to `onFailed` in their transaction. */
export function recover(
  database: Database,
  store: PredictionStore,
  onFailed: (prediction: Prediction) => void,
): UnfinishedPrediction[] {
  return database.commit(() =>
    store.listUnfinished().filter(({ prediction }) => {
      if (prediction.status === 'starting') return true
      if (store.countServerStart(prediction.id) <= maxServerStarts) return true
      const failed = fail(
        prediction,
        `The server ended ${maxServerStarts} times while it worked on this, and does not try again`,
      )
      store.save(failed)
      onFailed(failed)
      return false
    }),
  )
}
