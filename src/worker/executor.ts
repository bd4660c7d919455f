/** Lets predictions run one at a time in the order of the queue. */
import type { Prediction } from '../contract/prediction.js'
import { FluxdError, toErrorRecord } from '../errors.js'
import type { Files } from '../files/files.js'
import { planWeights } from '../plan/planGeneration.js'
import type { FairQueue } from '../predictions/fairQueue.js'
import { cancel, fail, measure, start, succeed } from '../predictions/prediction.js'
import type { Pace } from '../predictions/throughput.js'
import type { PredictionStore } from '../store/sqlite/predictions.js'
import type { Live, LivePredictions } from './activePredictions.js'
import type { Preparation } from './assets.js'
import { type RunContext, type RunReport, runOnce, untilThereIsRoom } from './attempt.js'
import { createUpcoming, type UpcomingOptions } from './prefetch.js'
import type { Previews } from './previews.js'

export type SchedulerOptions = {
  readonly queue: FairQueue
  readonly live: LivePredictions
  readonly store: PredictionStore
  readonly pace: Pace
  readonly library: UpcomingOptions['library']
  readonly media: UpcomingOptions['media']
  readonly files: Pick<Files, 'add' | 'removeOutputs'>
  readonly run: Omit<RunContext, 'files'>
  readonly previews: Pick<Previews, 'show' | 'wish'>
  /** Told of failures that are not the user's. */
  readonly onFault: (error: unknown) => void
}

export type Scheduler = {
  /** Somebody new waits. */
  readonly wake: () => void
  /** Which one runs. */
  readonly running: () => string | undefined
  /** For how long it has; 0 when none runs. */
  readonly runningSeconds: () => number
  /** Begins nothing more. */
  readonly close: () => void
  /** Resolves when nothing runs. */
  readonly idle: () => Promise<void>
}

type Running = {
  readonly id: string
  readonly sinceMs: number
  /** Its LoRAs are in place: the engine has time for those of the next one. */
  isAdapted?: boolean
  /** Whom the engine knows to come next. */
  next?: string
}

export function createScheduler(options: SchedulerOptions): Scheduler {
  const { queue, live, pace, files } = options
  const upcoming = createUpcoming({
    ...options,
    onChange: wake,
    onFailure: endWith,
  })
  let running: Running | undefined
  let run: Promise<void> = Promise.resolve()
  let isClosed = false
  let idleSinceMs = performance.now()

  function wake(): void {
    if (isClosed) return
    upcoming.prepare()
    if (running) announceNext(running)
    else runFirstReady()
  }

  /** An engine that was started anew for a second run has forgotten whom it knew. */
  function giveTimeToNext(): void {
    if (running) running = { id: running.id, sinceMs: running.sinceMs, isAdapted: true }
    wake()
  }

  /** Whoever is ready first comes next, unless somebody overtakes it; then the engine hears of that one. */
  function announceNext(present: Running): void {
    if (!present.isAdapted) return
    const [id, preparation] = upcoming.first() ?? []
    if (id === undefined || preparation === undefined || id === present.next) return
    present.next = id
    const { input, loras } = preparation
    const { engine, settings } = options.run
    engine.prepare(planWeights(input, { ...settings, loras }))
  }

  function runFirstReady(): void {
    const [id, preparation] = upcoming.first() ?? []
    const prediction = id === undefined ? undefined : live.find(id)
    if (id !== undefined && preparation && prediction) begin(id, prediction, preparation)
  }

  function begin(id: string, prediction: Live, preparation: Preparation): void {
    queue.take(id)
    upcoming.take(id)
    running = { id, sinceMs: performance.now() }
    run = work(id, prediction, preparation)
      .catch(options.onFault)
      .finally(() => {
        running = undefined
        idleSinceMs = performance.now()
        preparation.release()
        wake()
      })
    wake()
  }

  async function work(id: string, prediction: Live, preparation: Preparation): Promise<void> {
    const loraWaitMs = waitForLoras(preparation)
    try {
      const report = await runTwiceAtMost(id, prediction, preparation)
      pace.record(report.work, report.spent)
      const hasLoras = Object.values(preparation.loras).some((lora) => lora !== undefined)
      const loraSwitchMs = hasLoras ? loraWaitMs + 1000 * report.loraSeconds : 0
      await end(id, prediction, (state) =>
        succeed(measure(state, { loraSwitchMs: Math.round(loraSwitchMs) })),
      )
    } catch (error) {
      if (isStopped(error)) return leave(error)
      await endWith(id, prediction, error)
      await files.removeOutputs(id)
    }
  }

  /** Without an engine nothing ends any more, and nothing is lost: the next server goes on. */
  function leave(error: FluxdError): void {
    isClosed = true
    options.onFault(error)
  }

  /** How long the engine stood still for the LoRAs of this one. */
  const waitForLoras = ({ lorasBeganAtMs, lorasReadyAtMs }: Preparation) =>
    Math.max(0, lorasReadyAtMs - Math.max(lorasBeganAtMs, idleSinceMs))

  /** An engine that dies under a prediction gets a second chance, with the same seed and a new log. */
  async function runTwiceAtMost(
    id: string,
    prediction: Live,
    preparation: Preparation,
  ): Promise<RunReport> {
    const { logs } = prediction.prediction()
    try {
      return await runAfresh(id, prediction, preparation, logs)
    } catch (error) {
      if (!isDeath(error)) throw error
      const lines = `${logs}${error.message}; this is the second run\n`
      try {
        return await runAfresh(id, prediction, preparation, lines)
      } catch (again) {
        throw isDeath(again) ? new FluxdError(again.code, `Twice: ${again.message}`) : again
      }
    }
  }

  async function runAfresh(id: string, prediction: Live, preparation: Preparation, logs: string) {
    await files.removeOutputs(id)
    const begin = () => live.advance(id, (state) => start(state, logs))
    return runOnce(
      preparation,
      { ...options.run, files },
      {
        predictionId: id,
        signal: prediction.signal,
        begin: () => untilThereIsRoom(begin, prediction.signal),
        onAdapted: giveTimeToNext,
        writeLine: (line) => live.writeLine(id, line),
        addOutput: (file) => live.addOutput(id, file),
        previews: options.previews,
      },
    )
  }

  /** Unless somebody else has ended it: a cancel, or the end of the server, after which it runs again. */
  async function end(id: string, { signal }: Live, change: (state: Prediction) => Prediction) {
    if (signal.aborted) return
    await untilThereIsRoom(() => live.advance(id, change), signal).catch(options.onFault)
  }

  /** What fails before the engine takes it has begun too: who is told of starts is told of this one. */
  async function endWith(id: string, prediction: Live, error: unknown) {
    if (prediction.prediction().status === 'starting')
      await end(id, prediction, (state) => start(state, state.logs))
    await end(id, prediction, (state) => settle(state, error))
  }

  function settle(state: Prediction, error: unknown): Prediction {
    const { code, message } = toErrorRecord(error)
    if (code === 'canceled') return cancel(state)
    if (!(error instanceof FluxdError) || error.status >= 500) options.onFault(error)
    return fail(state, message)
  }

  return {
    wake,
    running: () => running?.id,
    runningSeconds: () => (running ? (performance.now() - running.sinceMs) / 1000 : 0),
    close() {
      isClosed = true
    },
    idle: () => run,
  }
}

const isStopped = (error: unknown): error is FluxdError =>
  error instanceof FluxdError && error.code === 'not_ready'

const isDeath = (error: unknown): error is FluxdError =>
  error instanceof FluxdError && error.code === 'engine_died'
