/**
 * The life of a prediction as pure transitions: starting → processing → succeeded, failed or
 * canceled. A terminal state is final: a transition out of it returns the prediction unchanged.
 */
import type { OutputFile, Prediction, PredictionMetrics } from '../contract/prediction.js'

export type PredictionOrigin = Omit<
  Prediction,
  'status' | 'startedAt' | 'completedAt' | 'logs' | 'output' | 'error' | 'metrics' | 'dataRemoved'
>

export const isTerminal = ({ status }: Pick<Prediction, 'status'>) =>
  status === 'succeeded' || status === 'failed' || status === 'canceled'

export const createPrediction = (origin: PredictionOrigin): Prediction => ({
  ...origin,
  status: 'starting',
  logs: '',
  metrics: {},
  dataRemoved: false,
})

/**
 * Its turn has come, or has come again: `logs` is what was written before, and what an interrupted
 * run left behind is forgotten.
 */
export const start = (prediction: Prediction, logs: string, at = new Date()): Prediction =>
  change(prediction, {
    status: 'processing',
    startedAt: at,
    logs,
    output: undefined,
    metrics: { queueTime: secondsBetween(prediction.createdAt, at) },
  })

export const log = (prediction: Prediction, line: string): Prediction =>
  change(prediction, { logs: `${prediction.logs}${line}\n` })

/** Adds an image; they are listed by index. */
export const addOutput = (prediction: Prediction, file: OutputFile): Prediction =>
  change(prediction, {
    output: [...(prediction.output ?? []), file].sort((a, b) => a.index - b.index),
  })

export const measure = (prediction: Prediction, metrics: PredictionMetrics): Prediction =>
  change(prediction, { metrics: { ...prediction.metrics, ...metrics } })

export const succeed = (prediction: Prediction, at = new Date()): Prediction =>
  end(prediction, at, {
    status: 'succeeded',
    output: prediction.output ?? [],
  })

export const fail = (prediction: Prediction, error: string, at = new Date()): Prediction =>
  end(prediction, at, { status: 'failed', error, output: undefined })

export const cancel = (prediction: Prediction, at = new Date()): Prediction =>
  end(prediction, at, { status: 'canceled', output: undefined })

function end(prediction: Prediction, at: Date, changes: Partial<Prediction>): Prediction {
  const { startedAt, createdAt, metrics } = prediction
  const ended = { ...prediction, ...changes }
  return change(prediction, {
    ...changes,
    completedAt: at,
    metrics: {
      ...metrics,
      predictTime: startedAt ? secondsBetween(startedAt, at) : 0,
      totalTime: secondsBetween(createdAt, at),
      ...(ended.output && { imageCount: ended.output.length }),
    },
  })
}

const change = (prediction: Prediction, changes: Partial<Prediction>): Prediction =>
  isTerminal(prediction) ? prediction : { ...prediction, ...changes }

const secondsBetween = (from: Date, to: Date) => Math.max(0, to.getTime() - from.getTime()) / 1000
