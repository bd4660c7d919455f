/**
 * Runs predictions: plan, wait for the turn, generate, deliver. What goes wrong after the plan is
 * made, and a `custom` size without its sides, is the prediction's failure, not the request's.
 */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { Engine, GenerationResult } from '../engine/engine.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { FluxdError, toErrorRecord } from '../errors.js'
import { planGeneration } from '../plan/generation.js'
import type { GenerationPlan, NoiseSource } from '../plan/plan.js'
import {
  cancel,
  createPrediction,
  fail,
  log,
  type PredictionOrigin,
  start,
  succeed,
} from './prediction.js'
import { progressLine } from './progress.js'
import { createQueue } from './queue.js'
import { drawSeed } from './seed.js'

export type Predictions = {
  /**
   * The prediction in its terminal state. Throws only `not_supported`: the request asks for what
   * this version cannot do.
   */
  readonly run: (
    input: FluxInput,
    origin: PredictionOrigin,
    signal: AbortSignal,
  ) => Promise<Prediction>
  /** Cancels what runs and what waits. */
  readonly stop: () => void
}

export type PredictionOptions = {
  readonly engine: Engine
  readonly noise: NoiseSource
  /** Told of failures that are not the user's. */
  readonly onFault: (error: unknown) => void
}

export function createPredictions({ engine, noise, onFault }: PredictionOptions): Predictions {
  const queue = createQueue()
  const stopping = new AbortController()

  async function run(
    input: FluxInput,
    origin: PredictionOrigin,
    signal: AbortSignal,
  ): Promise<Prediction> {
    let prediction = createPrediction(origin)
    const either = AbortSignal.any([signal, stopping.signal])
    try {
      const plan = planGeneration(input, { drawnSeed: drawSeed(), noise })
      const { images } = await queue.enqueue(() => {
        prediction = openingLines(plan).reduce(log, start(prediction))
        return generate(plan, either, (line) => {
          prediction = log(prediction, line)
        })
      }, either)
      return succeed(prediction, images.map(toDataUri))
    } catch (error) {
      return either.aborted ? cancel(prediction) : settle(prediction, error)
    }
  }

  function generate(
    plan: GenerationPlan,
    signal: AbortSignal,
    writeLine: (line: string) => void,
  ): Promise<GenerationResult> {
    const describe = createNarrator(plan)
    return engine.generate(plan, {
      signal,
      onEvent: (event) => {
        const line = describe(event)
        if (line !== undefined) writeLine(line)
      },
    })
  }

  function settle(prediction: Prediction, error: unknown): Prediction {
    const { code, message } = toErrorRecord(error)
    if (code === 'not_supported') throw error
    if (code === 'canceled') return cancel(prediction)
    if (!(error instanceof FluxdError) || error.status >= 500) onFault(error)
    return fail(prediction, message)
  }

  return { run, stop: () => stopping.abort() }
}

/** The reference's log up to its first progress line; clients read the seed from it. */
const openingLines = (plan: GenerationPlan): string[] => [
  ...plan.notes,
  `Using seed: ${plan.seed}`,
  `Prompt: ${plan.prompt}`,
  '[!] txt2img mode',
  progressLine(0, plan.steps * plan.count, 0),
]

/** The log line of an event, if it has one. Steps count over all pictures of the prediction. */
function createNarrator(plan: GenerationPlan): (event: GenerationEvent) => string | undefined {
  const startedAtMs = performance.now()
  return (event) => {
    if (event.kind === 'log') return event.line
    if (event.kind !== 'progress') return undefined
    const done = event.image * event.steps + event.step
    return progressLine(done, event.steps * plan.count, (performance.now() - startedAtMs) / 1000)
  }
}

const toDataUri = ({ bytes, mimeType }: GenerationResult['images'][number]) =>
  `data:${mimeType};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`
