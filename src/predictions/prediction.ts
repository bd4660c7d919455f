/**
 * The life of a prediction as pure transitions: starting → processing → succeeded, failed or
 * canceled. A terminal state is final: a transition out of it returns the prediction unchanged.
 */
import type { Prediction } from '../contract/prediction.js'

export type PredictionOrigin = Pick<Prediction, 'id' | 'input' | 'createdAt'>

export const isTerminal = ({ status }: Prediction) =>
  status === 'succeeded' || status === 'failed' || status === 'canceled'

export const createPrediction = (origin: PredictionOrigin): Prediction => ({
  ...origin,
  status: 'starting',
  startedAt: undefined,
  completedAt: undefined,
  logs: '',
  output: undefined,
  error: undefined,
})

export const start = (prediction: Prediction) =>
  change(prediction, { status: 'processing', startedAt: new Date() })

export const log = (prediction: Prediction, line: string) =>
  change(prediction, { logs: `${prediction.logs}${line}\n` })

export const succeed = (prediction: Prediction, output: readonly string[]) =>
  change(prediction, { status: 'succeeded', output, completedAt: new Date() })

export const fail = (prediction: Prediction, error: string) =>
  change(prediction, { status: 'failed', error, completedAt: new Date() })

export const cancel = (prediction: Prediction) =>
  change(prediction, { status: 'canceled', completedAt: new Date() })

const change = (prediction: Prediction, changes: Partial<Prediction>): Prediction =>
  isTerminal(prediction) ? prediction : { ...prediction, ...changes }
