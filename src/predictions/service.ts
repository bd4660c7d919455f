/**
 * Runs predictions: fetch what the input names, wait for the turn, plan, generate, deliver. What goes
 * wrong on this way is the prediction's failure, not the request's, but for what this version lacks.
 */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { Engine, GenerationResult } from '../engine/engine.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { FluxdError, toErrorRecord } from '../errors.js'
import type { MediaClient } from '../media/fetch.js'
import { checkWish } from '../plan/generation.js'
import { type GenerationPlan, type NoiseSource, stepsToRun } from '../plan/plan.js'
import { decide, fetchInputs } from './inputs.js'
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
  readonly media: MediaClient
  readonly noise: NoiseSource
  /** Told of failures that are not the user's. */
  readonly onFault: (error: unknown) => void
}

export function createPredictions({
  engine,
  media,
  noise,
  onFault,
}: PredictionOptions): Predictions {
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
      checkWish(input)
      const files = await fetchInputs(input, media, either)
      const { images } = await queue.enqueue(async () => {
        prediction = start(prediction)
        const plan = await decide(input, files, noise, engine)
        prediction = openingLines(plan).reduce(log, prediction)
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
  ...modeLines(plan),
  progressLine(0, stepsToRun(plan) * plan.count, 0),
]

function modeLines({ start, size }: GenerationPlan): string[] {
  if (start.kind === 'noise') return ['[!] txt2img mode']
  const { width, height } = start.image.size
  const stored = `${width}x${height}`
  return [
    `Input image size: ${stored}`,
    `[!] Resizing input image from ${stored} to ${size.width}x${size.height}`,
    start.kind === 'image' ? '[!] img2img mode' : '[!] inpaint mode',
  ]
}

/** The log line of an event, if it has one. Steps count over all pictures of the prediction. */
function createNarrator(plan: GenerationPlan): (event: GenerationEvent) => string | undefined {
  const startedAtMs = performance.now()
  return (event) => {
    if (event.kind !== 'progress') return undefined
    const done = event.image * event.steps + event.step
    return progressLine(done, event.steps * plan.count, (performance.now() - startedAtMs) / 1000)
  }
}

const toDataUri = ({ bytes, mimeType }: GenerationResult['images'][number]) =>
  `data:${mimeType};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`
