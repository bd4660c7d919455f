/** One run of a prediction on an engine: its images become files as they arrive. */
import type { OutputFile } from '../contract/prediction.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { FluxdError } from '../errors.js'
import type { Files } from '../files/files.js'
import { stepsToRun } from '../plan/plan.js'
import type { ValidDraft } from '../plan/planGeneration.js'
import { type Cost, costOf } from '../predictions/cost.js'
import type { Spent, Throughput } from '../predictions/throughput.js'
import { retryWhileDiskFull } from '../store/retryWrite.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { Engine, GenerationResult } from './engine/client.js'
import type { ReadyPrediction } from './held.js'
import { createLogLines } from './logLines.js'

export type AttemptContext = {
  readonly engine: Pick<Engine, 'generate'>
  readonly files: Pick<Files, 'add' | 'removeOutputs'>
  readonly throughput: Pick<Throughput, 'expect'>
  readonly metrics: Pick<Metrics, 'generationEnded' | 'imageFlagged' | 'engineRestarted'>
  /** The engine takes it up; its log begins with `logs`. */
  readonly begin: (logs: string) => Promise<void>
  readonly onLorasReady: () => void
}

/** What the run took, without loading weights; `loraSeconds` for switching to its LoRAs. */
export type AttemptReport = {
  readonly cost: Cost
  readonly spent: Spent
  readonly loraSeconds: number
}

type ImageEvent = Extract<GenerationEvent, { kind: 'image' }>

/**
 * An engine that dies under a prediction gets a second chance, with the same seed and a new log.
 */
export async function runWithRetry(
  held: ReadyPrediction,
  context: AttemptContext,
): Promise<AttemptReport> {
  const { logs } = held.feed.prediction()
  try {
    return await runAttempt(held, logs, context)
  } catch (error) {
    if (!isEngineCrash(error)) throw error
    context.metrics.engineRestarted()
    try {
      return await runAttempt(held, `${logs}${error.message}; this is the second run\n`, context)
    } catch (again) {
      if (!isEngineCrash(again)) throw again
      context.metrics.engineRestarted()
      throw new FluxdError(again.code, `Twice: ${again.message}`, { cause: again })
    }
  }
}

/** Resolves when all files are on disk; throws what the engine throws. */
async function runAttempt(
  { draft, state: { assets }, feed, abort: { signal }, id }: ReadyPrediction,
  logs: string,
  { engine, files, throughput, metrics, begin, onLorasReady }: AttemptContext,
): Promise<AttemptReport> {
  if (draft.kind === 'invalid') throw draft.error
  await files.removeOutputs(id)
  const logLines = createLogLines(draft, assets.loras.length)
  const { kind, tokens } = costOf({ ...draft, count: 1 })
  const saver = createImageSaver(id, draft, files, signal, feed.addOutput)
  let size = draft.size
  const onEvent = (event: GenerationEvent) => {
    for (const line of logLines(event)) feed.writeLine(line)
    if (event.kind === 'planned') size = event.size
    if (event.kind === 'lorasReady') onLorasReady()
    if (event.kind === 'preview') feed.showPreview(event)
    if (event.kind === 'flagged') metrics.imageFlagged()
    if (event.kind === 'image') saver.save(event)
  }
  const onStart = async () => {
    await begin(logs)
    for (const note of draft.notes) feed.writeLine(note)
  }
  try {
    const { timings } = await engine.generate(
      { draft, image: assets.image, mask: assets.mask, loras: assets.loras },
      {
        signal,
        onEvent,
        onStart,
        previews: feed.previews,
        expected: throughput.expect(kind, tokens),
      },
    )
    await saver.done()
    report(metrics, draft, timings)
    const { total, lora, denoise: steps } = timings
    const cost = costOf({ ...draft, size })
    return { cost, spent: { steps, rest: total - lora - steps }, loraSeconds: lora }
  } finally {
    await saver.idle()
  }
}

/** Writes images to files as they come. */
function createImageSaver(
  predictionId: string,
  { output }: ValidDraft,
  files: AttemptContext['files'],
  signal: AbortSignal,
  addOutput: (file: OutputFile) => void,
) {
  const writing: Promise<void>[] = []

  async function write({ index, bytes, mimeType }: ImageEvent): Promise<void> {
    const name = `out-${index}.${output.format}`
    const file = { kind: 'output', predictionId, name, contentType: mimeType, bytes } as const
    const { id: fileId, size } = await retryWhileDiskFull(() => files.add(file), signal)
    if (!signal.aborted) addOutput({ index, name, mimeType, size, fileId })
  }

  return {
    save(event: ImageEvent): void {
      const saving = write(event)
      // `done` throws it; until then a failure must not count as unhandled.
      saving.catch(() => {})
      writing.push(saving)
    },
    /** Throws what a file could not be written for. */
    async done(): Promise<void> {
      await Promise.all(writing)
    },
    async idle(): Promise<void> {
      await Promise.allSettled(writing)
    },
  }
}

function report(
  metrics: AttemptContext['metrics'],
  draft: ValidDraft,
  timings: GenerationResult['timings'],
): void {
  const { ort: _ort, total: _total, ...stageSeconds } = timings
  metrics.generationEnded({
    variant: draft.variant,
    precision: draft.precision,
    mode: draft.start,
    steps: stepsToRun(draft) * draft.count,
    stageSeconds,
  })
}

const isEngineCrash = (error: unknown): error is FluxdError =>
  error instanceof FluxdError && error.code === 'engine_died'

/** No engine will run anything any more. */
export const isEngineStopped = (error: unknown): error is FluxdError =>
  error instanceof FluxdError && error.code === 'not_ready'
