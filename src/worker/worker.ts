/** The worker of a process: an executor for each engine, and what they share. */
import type { Files } from '../files/files.js'
import type { MediaClient } from '../net/fetchMedia.js'
import type { PlanSettings } from '../plan/planGeneration.js'
import { createLocalFeed } from '../predictions/feed.js'
import { createThroughput } from '../predictions/throughput.js'
import type { WorkerPort } from '../predictions/workerPort.js'
import type { Store } from '../store/store.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { LoraSource } from './assets.js'
import type { Engine } from './engine/client.js'
import { createExecutor, type Executor } from './executor.js'
import type { HeldPrediction } from './held.js'

/** An engine and the GPU that it computes on; none on the CPU. */
export type WorkerEngine = { readonly engine: Engine; readonly gpu?: number | undefined }

export type WorkerOptions = {
  readonly engines: readonly WorkerEngine[]
  readonly store: Pick<Store, 'predictions' | 'signals'>
  readonly loras: LoraSource
  readonly media: Pick<MediaClient, 'fetch'>
  readonly files: Pick<Files, 'add' | 'removeOutputs'>
  readonly settings: PlanSettings
  readonly metrics: Metrics
  /** For how long the head of the queue may be overtaken for LoRAs that are in place. */
  readonly patienceMs: number
  /** Receives failures that are not the user's; `predictionId` where it is about one. */
  readonly onFault: (error: unknown, predictionId?: string) => void
}

// Signals may be lost: the queue is looked at from time to time.
const pollMs = 1000
// A prediction under which so many processes have ended may be what ends them.
const maxStarts = 20

/** Begins with what an earlier process left unfinished. */
export function startWorker(options: WorkerOptions): WorkerPort {
  const { engines, store, onFault, metrics } = options
  const feed = createLocalFeed()
  const throughput = createThroughput()
  const executors: Executor[] = engines.map(({ engine, gpu }, index) =>
    createExecutor({
      name: `${process.pid}/${index}`,
      gpu,
      engine,
      store: store.predictions,
      feed,
      sources: {
        loras: options.loras,
        media: options.media,
        onLora: metrics.loraAcquired,
      },
      files: options.files,
      settings: options.settings,
      throughput,
      metrics,
      patienceMs: options.patienceMs,
      takeFromBusy,
      onFault,
    }),
  )
  const stopListening = store.signals.listen((signal) => {
    if (signal.kind === 'work') wakeAll()
    else for (const executor of executors) executor.ended(signal.id)
  })
  const poll = setInterval(wakeAll, pollMs).unref()
  let isRecovered = false
  const started = recover()

  function takeFromBusy(): HeldPrediction | undefined {
    for (const executor of executors) {
      const held = executor.yieldAhead()
      if (held) return held
    }
    return undefined
  }

  function wakeAll(): void {
    if (isRecovered) for (const executor of executors) executor.wake()
  }

  async function recover(): Promise<void> {
    try {
      for (const prediction of await store.predictions.recover(maxStarts))
        feed.open(prediction).settle(prediction)
    } catch (error) {
      onFault(error)
    }
    isRecovered = true
    wakeAll()
  }

  async function end(how: 'drain' | 'stop'): Promise<void> {
    clearInterval(poll)
    await started
    await Promise.all(executors.map((executor) => executor[how]()))
    stopListening()
  }

  return {
    feed,
    throughput,
    executors: () => executors.map((executor) => executor.status()),
    async warmUp() {
      await Promise.all(engines.map(({ engine }) => engine.load('dev')))
    },
    assertFits(draft) {
      if (draft.kind === 'valid') engines[0]?.engine.assertFits(draft)
    },
    drain: () => end('drain'),
    stop: () => end('stop'),
  }
}
