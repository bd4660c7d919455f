/**
 * The predictions of a server: admitted (on disk before it is acknowledged), read, canceled and
 * watched. Their state is the store's, what runs is the worker's; this joins the two.
 */
import type { Prediction } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import type { Files } from '../../files/files.js'
import { draftPlan, type PlanSettings } from '../../plan/planGeneration.js'
import { estimateQueue, type QueueEstimate } from '../../predictions/estimate.js'
import {
  admissionEvent,
  type PredictionListener,
  replayEvents,
} from '../../predictions/eventLog.js'
import type { EventHook, PreviewListener } from '../../predictions/feed.js'
import { isTerminal } from '../../predictions/prediction.js'
import type { PredictionRequest } from '../../predictions/request.js'
import type { ExecutorStatus, WorkerPort } from '../../predictions/workerPort.js'
import type { QueuePosition } from '../../store/predictionStore.js'
import type { Store } from '../../store/store.js'
import { createAdmission } from './admission.js'
import { startDeadlines } from './deadlines.js'
import { type Listed, listPage, type PredictionPage } from './pagination.js'
import { createWaiters, type WaitOptions } from './waiters.js'

export type Predictions = {
  /**
   * Resolves when it is on disk. Throws `queue_full`, `busy`, `draining`, `not_ready`,
   * `storage_full`, and `conflict` when the id is taken or the idempotency key was used for another
   * body.
   */
  readonly create: (request: PredictionRequest) => Promise<Prediction>
  readonly get: (id: string) => Promise<Prediction | undefined>
  readonly findByStreamToken: (token: string) => Promise<Prediction | undefined>
  readonly list: (page: PredictionPage) => Promise<Listed>
  /** Canceled at once, waiting or running; a terminal one is returned unchanged. */
  readonly cancel: (id: string) => Promise<Prediction | undefined>
  /**
   * The prediction when it is terminal; as it is then at the timeout, when `signal` aborts and when
   * the server stops. Throws `not_found`.
   */
  readonly waitUntilTerminal: (id: string, options?: WaitOptions) => Promise<Prediction>
  /**
   * Replays what came after the event `after` (from the beginning without it), then what comes; the
   * last event is a `status` with a terminal state. Returns how to stop. Throws `not_found`.
   */
  readonly watch: (
    id: string,
    listener: PredictionListener,
    options?: { readonly after?: number },
  ) => Promise<() => void>
  /** Has previews made while it runs, and sends them; returns how to stop. */
  readonly watchPreviews: (id: string, listener: PreviewListener) => () => void
  /** Undefined for one that is over or unknown. */
  readonly queueEstimate: (id: string) => Promise<QueueEstimate | undefined>
  readonly counts: () => Promise<{ readonly waiting: number; readonly running: number }>
  /** Why nothing more would be admitted now, if so. */
  readonly refusal: () => Promise<string | undefined>
  /**
   * Admits nothing more; resolves when what runs is done, or its time is over. The rest stays on
   * disk.
   */
  readonly drain: () => Promise<void>
  /** As after `drain`, at once: what runs is interrupted and runs again at the next start. */
  readonly stop: () => Promise<void>
}

export type PredictionOptions = {
  readonly store: Pick<Store, 'predictions' | 'signals'>
  readonly worker: WorkerPort
  readonly files: Files
  readonly settings: PlanSettings
  /** How many may wait. */
  readonly maxQueue: number
  /** How long `drain` lets what runs go on. */
  readonly drainMs: number
  /** Receives the ends that no worker reports. */
  readonly onEvent: EventHook
  /** Receives failures that are not the user's. */
  readonly onFault: (error: unknown) => void
}

export function createPredictions(options: PredictionOptions): Predictions {
  const { worker, settings, onEvent, onFault } = options
  const { predictions: store, signals } = options.store
  const { feed } = worker
  const waiters = createWaiters(signals)
  const deadlines = startDeadlines({ store, onExpired: end, onFault })
  const admission = createAdmission({
    store,
    files: options.files,
    maxQueue: options.maxQueue,
    untilRoom: secondsUntilRoom,
  })
  let isDraining = false

  /** The end of a prediction that this server decided. */
  function end(prediction: Prediction): void {
    feed.end(prediction)
    onEvent(prediction, 'completed')
  }

  async function create(request: PredictionRequest): Promise<Prediction> {
    if (isDraining) throw new FluxdError('draining', 'The server is shutting down')
    if (isWithoutEngine()) throw new FluxdError('not_ready', 'No engine runs')
    const draft = draftPlan(request.input, request.loras, settings)
    worker.assertFits(draft)
    const outcome = await admission.admit(request, draft)
    if (outcome.kind === 'repeated') return expect(outcome.id)
    if (request.deadline) deadlines.add(request.deadline)
    return outcome.prediction
  }

  /** A server whose predictions are run elsewhere has no executors. */
  function isWithoutEngine(): boolean {
    const executors = worker.executors()
    const isGone = ({ engine }: ExecutorStatus) => engine === 'stopped' || engine === 'failing'
    return executors.length > 0 && executors.every(isGone)
  }

  /** The row, with what its worker has logged and made since. */
  function withProgress(stored: Prediction): Prediction {
    const held = isTerminal(stored) ? undefined : feed.snapshot(stored.id)
    return held ? { ...held, input: stored.input, inputFiles: stored.inputFiles } : stored
  }

  async function get(id: string): Promise<Prediction | undefined> {
    const stored = await store.find(id)
    return stored && withProgress(stored)
  }

  async function expect(id: string): Promise<Prediction> {
    const prediction = await get(id)
    if (!prediction) throw unknownPrediction(id)
    return prediction
  }

  async function cancel(id: string): Promise<Prediction | undefined> {
    const { prediction, isCanceled } = await store.cancel(id, feed.snapshot(id))
    if (isCanceled && prediction) end(prediction)
    return prediction
  }

  async function waitUntilTerminal(id: string, wait: WaitOptions = {}): Promise<Prediction> {
    await waiters.wait(id, wait, async () => isTerminal(await expect(id)))
    return expect(id)
  }

  async function watch(
    id: string,
    listener: PredictionListener,
    { after = 0 }: { after?: number } = {},
  ): Promise<() => void> {
    const prediction = await expect(id)
    if (prediction.dataRemoved || (isTerminal(prediction) && !feed.has(id))) {
      for (const event of replayEvents(prediction)) if (event.id > after) listener(event)
      return () => {}
    }
    const admitted = admissionEvent(prediction)
    if (admitted.id > after) listener(admitted)
    return feed.watch(id, listener, after)
  }

  async function queueEstimate(id: string): Promise<QueueEstimate | undefined> {
    const position = await store.queuePosition(id)
    return position && estimateAt(position)
  }

  function estimateAt({ before, cost, running }: QueuePosition): QueueEstimate {
    const nowMs = Date.now()
    return estimateQueue(
      worker.throughput,
      running.map((one) => ({
        cost: one.cost,
        seconds: (nowMs - one.startedAt.getTime()) / 1000,
      })),
      before === undefined ? undefined : { before, cost },
      worker.executors().length,
    )
  }

  /** Until the first of those that run is done. */
  async function secondsUntilRoom(): Promise<number | undefined> {
    const [running] = worker.executors().flatMap((executor) => executor.running ?? [])
    return running === undefined ? undefined : (await queueEstimate(running))?.etaSeconds
  }

  async function drain(): Promise<void> {
    isDraining = true
    let timer: NodeJS.Timeout | undefined
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, options.drainMs)
    })
    await Promise.race([worker.drain(), timeout])
    clearTimeout(timer)
    await stop()
  }

  async function stop(): Promise<void> {
    isDraining = true
    deadlines.stop()
    waiters.stop()
    await worker.stop()
  }

  return {
    create,
    get,
    async findByStreamToken(token) {
      const stored = await store.findByStreamToken(token)
      return stored && withProgress(stored)
    },
    list: (page) => listPage(store, page),
    cancel,
    waitUntilTerminal,
    watch,
    watchPreviews: feed.watchPreviews,
    queueEstimate,
    counts: store.counts,
    refusal: async () => (isDraining ? 'the server is shutting down' : admission.refusal()),
    drain,
    stop,
  }
}

const unknownPrediction = (id: string) =>
  new FluxdError('not_found', `There is no prediction ${id.slice(0, 64)}`)
