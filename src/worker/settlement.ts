/**
 * What an executor writes of a prediction that it holds: that it runs, how far it is, how it ended,
 * or that it waits again. A claim that no longer holds writes nothing.
 */
import type { Prediction } from '../contract/prediction.js'
import { FluxdError, toErrorRecord } from '../errors.js'
import type { Files } from '../files/files.js'
import { cancel, fail, start } from '../predictions/prediction.js'
import type { PredictionStore } from '../store/predictionStore.js'
import { retryWrite } from '../store/retryWrite.js'
import { type HeldPrediction, releaseAssets } from './held.js'

export type SettlementOptions = {
  readonly store: PredictionStore
  readonly files: Pick<Files, 'removeOutputs'>
  readonly onFault: (error: unknown, predictionId?: string) => void
}

export type Settlement = {
  /** An engine takes it up; `logs` is what its log begins with. Throws when the claim is lost. */
  readonly begin: (held: HeldPrediction, logs: string) => Promise<void>
  /** It ends as `change` says, unless it is over already. */
  readonly settle: (
    held: HeldPrediction,
    change: (prediction: Prediction) => Prediction,
  ) => Promise<void>
  readonly settleFailed: (held: HeldPrediction, error: unknown) => Promise<void>
  /** It waits again, before all others of its priority. */
  readonly release: (held: HeldPrediction) => Promise<void>
  /** Writes logs and images into the row now and then, until the returned function is called. */
  readonly checkpoint: (held: HeldPrediction) => () => void
}

const checkpointMs = 1000

export function createSettlement({ store, files, onFault }: SettlementOptions): Settlement {
  const onError = (held: HeldPrediction) => (error: unknown) => onFault(error, held.id)

  async function begin(held: HeldPrediction, logs: string): Promise<void> {
    const prediction = start(held.feed.prediction(), logs)
    const { signal } = held.abort
    const isHeld = await retryWrite(
      () => store.begin(held.claim, prediction),
      signal,
      onError(held),
    )
    if (!isHeld) throw new FluxdError('canceled', `The claim on prediction ${held.id} is lost`)
    held.feed.begin(prediction)
  }

  async function settle(held: HeldPrediction, change: (state: Prediction) => Prediction) {
    const { abort, claim, feed } = held
    if (abort.signal.aborted) return
    const prediction = change(feed.prediction())
    const write = () => store.settle(claim, prediction)
    const isSettled = await retryWrite(write, abort.signal, onError(held))
    if (isSettled) feed.settle(prediction)
    if (!isSettled || prediction.status !== 'succeeded') await files.removeOutputs(held.id)
  }

  /** What fails before an engine takes it has begun too: its `start` webhook is sent. */
  async function settleFailed(held: HeldPrediction, error: unknown): Promise<void> {
    const { status, logs } = held.feed.prediction()
    if (held.abort.signal.aborted) return files.removeOutputs(held.id)
    if (status === 'starting') await begin(held, logs)
    await settle(held, (state) => toFailure(state, error))
  }

  function toFailure(state: Prediction, error: unknown): Prediction {
    const { code, message } = toErrorRecord(error)
    if (code === 'canceled') return cancel(state)
    if (!(error instanceof FluxdError) || error.status >= 500) onFault(error, state.id)
    return fail(state, message)
  }

  async function release(held: HeldPrediction): Promise<void> {
    held.abort.abort()
    releaseAssets(held)
    held.feed.close()
    await store.release(held.claim)
  }

  function checkpoint(held: HeldPrediction): () => void {
    let saved = ''
    const timer = setInterval(() => {
      const prediction = held.feed.prediction()
      if (prediction.status !== 'processing' || prediction.logs === saved) return
      saved = prediction.logs
      store.checkpoint(held.claim, prediction).catch((error: unknown) => onFault(error, held.id))
    }, checkpointMs)
    return () => clearInterval(timer)
  }

  return { begin, settle, settleFailed, release, checkpoint }
}
