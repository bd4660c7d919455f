/**
 * All predictions of a server: admits them (on disk before it says so), lets them run one after the
 * other in fair order, and tells of those that live and those that are over.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { FluxInput } from '../../contract/input.js'
import type { Prediction } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import type { Files } from '../../files/files.js'
import type { MediaClient } from '../../net/fetchMedia.js'
import { foreseePlan, foreseeWork } from '../../predictions/cost.js'
import { lookAhead, type Outlook } from '../../predictions/estimate.js'
import type { PredictionListener } from '../../predictions/eventLog.js'
import { createFairQueue } from '../../predictions/fairQueue.js'
import { cancel } from '../../predictions/prediction.js'
import type { NewPrediction } from '../../predictions/request.js'
import { createPace } from '../../predictions/throughput.js'
import { recover } from '../../store/recovery.js'
import type { Database } from '../../store/sqlite/database.js'
import { createIdempotencyStore } from '../../store/sqlite/idempotency.js'
import { createPredictionStore, type StoredPrediction } from '../../store/sqlite/predictions.js'
import {
  createLivePredictions,
  type EventHook,
  retell,
  unknownPrediction,
  type WaitOptions,
} from '../../worker/activePredictions.js'
import type { LoraLibrary } from '../../worker/assets.js'
import { untilThereIsRoom } from '../../worker/attempt.js'
import type { Engine } from '../../worker/engine/client.js'
import { createScheduler } from '../../worker/executor.js'
import type { PlanSettings } from '../../worker/inputImages.js'
import { createPreviews, type PreviewListener } from '../../worker/previews.js'
import { createAdmission } from './admission.js'
import { createDeadlines } from './deadlines.js'
import { type Listed, listPage, type PredictionPage } from './pagination.js'

export type { EventHook } from '../../worker/activePredictions.js'

export type Predictions = {
  /**
   * Resolves when it is on disk. Throws `queue_full`, `busy`, `draining`, `not_ready`,
   * `storage_full`, and `conflict` when the id is taken or the idempotency key was used for another
   * body.
   */
  readonly create: (request: NewPrediction) => Promise<Prediction>
  readonly get: (id: string) => Promise<Prediction | undefined>
  readonly findByStreamToken: (token: string) => Promise<Prediction | undefined>
  readonly list: (page: PredictionPage) => Promise<Listed>
  /** Canceled at once, waiting or running; a terminal one is returned unchanged. */
  readonly cancel: (id: string) => Promise<Prediction | undefined>
  /**
   * The prediction when it is terminal; as it is then at the timeout, when `signal` aborts and when
   * the server stops. Throws `not_found`.
   */
  readonly waitUntilTerminal: (
    id: string,
    options?: { readonly timeoutMs?: number; readonly signal?: AbortSignal },
  ) => Promise<Prediction>
  /**
   * Replays what came after the event `after` (from the beginning without it), then what comes; the
   * last event is a `status` with a terminal state. Returns how to stop. Throws `not_found`.
   */
  readonly watch: (
    id: string,
    listener: PredictionListener,
    options?: { readonly after?: number },
  ) => Promise<() => void>
  /** Has previews made while it runs, and tells of them; returns how to stop. */
  readonly watchPreviews: (id: string, listener: PreviewListener) => () => void
  /** Undefined for one that is over or unknown. */
  readonly queueEstimate: (id: string) => Promise<Outlook | undefined>
  /** Waiting and running. */
  readonly liveCount: () => number
  readonly waitingCount: () => number
  readonly runningId: () => string | undefined
  /** Why nothing more would be admitted now, if so. */
  readonly refusal: () => Promise<string | undefined>
  /** Admits nothing more; resolves when what runs is done, or its time is over. The rest stays on disk. */
  readonly drain: () => Promise<void>
  /** As after `drain`, at once: what runs is interrupted and runs again at the next start. */
  readonly stop: () => Promise<void>
}

export type PredictionOptions = {
  readonly engine: Engine
  readonly library: LoraLibrary
  readonly media: Pick<MediaClient, 'fetch'>
  readonly files: Files
  readonly database: Database
  readonly settings: PlanSettings
  /** How many may wait. */
  readonly maxQueue: number
  /** How long `drain` lets the running one go on. */
  readonly drainMs: number
  readonly onEvent?: EventHook | undefined
  /** Told of failures that are not the user's. */
  readonly onFault: (error: unknown) => void
}

/** Begins with what an earlier server left unfinished. */
export function createPredictions(options: PredictionOptions): Predictions {
  const { database, onEvent = () => {} } = options
  const store = createPredictionStore(database)
  const queue = createFairQueue()
  const pace = createPace()
  const deadlines = createDeadlines(cancelWhenThereIsRoom)
  const live = createLivePredictions(database, store, (prediction, kind) => {
    onEvent(prediction, kind)
    if (kind === 'completed') deadlines.clear(prediction.id)
  })
  const previews = createPreviews()
  const scheduler = createScheduler({
    ...{ ...options, queue, live, store, pace, previews },
    run: options,
  })
  const admission = createAdmission({
    ...options,
    store,
    idempotency: createIdempotencyStore(database),
    waiting: queue.size,
    live: live.count,
    untilRoom: () => outlook(scheduler.running() ?? '')?.etaSeconds,
  })
  let isDraining = false

  function enlist(stored: StoredPrediction, input: FluxInput): void {
    const { prediction, priority } = stored
    const work = foreseeWork(input)
    live.enlist(stored, work)
    queue.push({ id: prediction.id, owner: prediction.keyId ?? '', priority, work })
    deadlines.set(prediction.id, prediction.deadline)
  }

  async function create(request: NewPrediction): Promise<Prediction> {
    if (isDraining) throw new FluxdError('draining', 'The server is shutting down')
    if (options.engine.status() === 'stopped')
      throw new FluxdError('not_ready', 'The engine is stopped')
    const plan = foreseePlan(request.wish, options.settings.safetyChecker)
    if (plan) options.engine.expectRoom(plan)
    const outcome = await admission.admit(request)
    if (outcome.kind === 'repeated') return expect(outcome.id)
    const { stored, wish, sent } = outcome
    enlist(stored, wish.input)
    scheduler.wake()
    return { ...stored.prediction, input: sent }
  }

  /** A live one has its input cut short; here it is whole. */
  function get(id: string): Prediction | undefined {
    const stored = store.find(id)
    const prediction = live.find(id)?.prediction()
    return stored && prediction ? { ...prediction, input: stored.input } : stored
  }

  function expect(id: string): Prediction {
    const prediction = get(id)
    if (!prediction) throw unknownPrediction(id)
    return prediction
  }

  function cancelById(id: string): Prediction | undefined {
    live.advance(id, (prediction) => cancel(prediction))
    queue.remove(id)
    scheduler.wake()
    return store.find(id)
  }

  /** Nobody is there to be told that the disk is full. */
  function cancelWhenThereIsRoom(id: string): void {
    const signal = live.find(id)?.signal
    if (signal) untilThereIsRoom(() => cancelById(id), signal).catch(options.onFault)
  }

  async function waitUntilTerminal(id: string, wait: WaitOptions = {}): Promise<Prediction> {
    await live.wait(id, wait)
    return expect(id)
  }

  function watch(id: string, listener: PredictionListener, { after }: { after?: number } = {}) {
    const prediction = expect(id)
    const stop = prediction.dataRemoved ? undefined : live.watch(id, listener, after)
    if (!stop) retell(prediction, listener, after)
    return stop ?? (() => {})
  }

  function outlook(id: string): Outlook | undefined {
    if (!live.find(id)) return undefined
    const running = live.find(scheduler.running() ?? '')
    const seconds = scheduler.runningSeconds()
    return lookAhead(pace, running && { work: running.work, seconds }, queue.outlook(id))
  }

  async function drain(): Promise<void> {
    isDraining = true
    scheduler.close()
    const inTime = new AbortController()
    const timeout = delay(options.drainMs, undefined, { signal: inTime.signal }).catch(() => {})
    await Promise.race([scheduler.idle(), timeout])
    inTime.abort()
    await stop()
  }

  async function stop(): Promise<void> {
    isDraining = true
    scheduler.close()
    deadlines.stop()
    live.stop()
    await scheduler.idle()
  }

  const unfinished = recover(database, store, (failed) => onEvent(failed, 'completed'))
  for (const stored of unfinished) enlist(stored, stored.wish.input)
  scheduler.wake()

  return {
    create,
    get: async (id) => get(id),
    findByStreamToken: async (token) => {
      const stored = store.findByStreamToken(token)
      return stored && get(stored.id)
    },
    list: async (page) => listPage(store, page),
    cancel: async (id) => cancelById(id),
    waitUntilTerminal,
    watch: async (id, listener, after) => watch(id, listener, after),
    watchPreviews: previews.watch,
    queueEstimate: async (id) => outlook(id),
    liveCount: live.count,
    waitingCount: queue.size,
    runningId: scheduler.running,
    refusal: async () => (isDraining ? 'the server is shutting down' : admission.refusal()),
    drain,
    stop,
  }
}
