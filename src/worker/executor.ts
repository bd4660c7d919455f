/**
 * One engine's loop: claim, fetch what the prediction needs, run it, settle it. While one runs, the
 * executor holds the next one and fetches for it. One that takes long to fetch is not waited for.
 */
import type { Files } from '../files/files.js'
import type { PlanSettings } from '../plan/planGeneration.js'
import type { LocalFeed } from '../predictions/feed.js'
import { measure, succeed } from '../predictions/prediction.js'
import type { Throughput } from '../predictions/throughput.js'
import type { ExecutorStatus } from '../predictions/workerPort.js'
import type { PredictionStore } from '../store/predictionStore.js'
import type { Metrics } from '../telemetry/metrics.js'
import type { AssetSources } from './assets.js'
import { type AttemptReport, isEngineStopped, runWithRetry } from './attempt.js'
import type { Engine } from './engine/client.js'
import {
  fetchFor,
  firstReady,
  type HeldPrediction,
  hold,
  type ReadyPrediction,
  releaseAssets,
} from './held.js'
import { createSettlement } from './settlement.js'

export type ExecutorOptions = {
  readonly name: string
  readonly gpu?: number | undefined
  readonly engine: Engine
  readonly store: PredictionStore
  readonly feed: LocalFeed
  readonly sources: AssetSources
  readonly files: Pick<Files, 'add' | 'removeOutputs'>
  readonly settings: PlanSettings
  readonly throughput: Throughput
  readonly metrics: Metrics
  /** For how long the head of the queue may be overtaken for LoRAs that are in place. */
  readonly patienceMs: number
  /** Takes what another executor holds ahead while it runs something else. */
  readonly takeFromBusy: () => HeldPrediction | undefined
  /** Receives failures that are not the user's; `predictionId` where it is about one. */
  readonly onFault: (error: unknown, predictionId?: string) => void
}

export type Executor = {
  readonly status: () => ExecutorStatus
  /** Something may have changed about what is next. */
  readonly wake: () => void
  /** A prediction is over; what is done for it ends. */
  readonly ended: (id: string) => void
  /** Hands over one that is held ahead while another one runs. */
  readonly yieldAhead: () => HeldPrediction | undefined
  /** Claims nothing more, and gives back what is held ahead; resolves when nothing runs. */
  readonly drain: () => Promise<void>
  /** As `drain`, and interrupts what runs: it waits again. */
  readonly stop: () => Promise<void>
}

// How long an executor waits for what a prediction needs before it claims another one.
const slowAfterMs = 100
// Each may hold an image of 100 MiB in memory.
const maxAhead = 8
// After an engine has refused a prediction because it does not run.
const engineLostPauseMs = 1000

export function createExecutor(options: ExecutorOptions): Executor {
  const { name, engine, store, onFault } = options
  const settlement = createSettlement(options)
  /** In the order of their claims; the one that runs is not among them. */
  const ahead = new Map<string, HeldPrediction>()
  let running: Running | undefined
  let run: Promise<void> = Promise.resolve()
  let claiming: Promise<void> | undefined
  let isWoken = false
  let isClosed = false
  let isStopping = false
  let idleSinceMs = performance.now()
  let claimsAgainAtMs = 0
  let lastSet: string | undefined

  function wake(): void {
    if (isClosed) return
    settleFailures()
    startNext()
    prefetchNext()
    isWoken = true
    claiming ??= claimAll()
      .catch((error: unknown) => onFault(error))
      .finally(() => {
        claiming = undefined
      })
  }

  async function claimAll(): Promise<void> {
    while (isWoken && !isClosed) {
      isWoken = false
      while (mayClaim() && (await claimOne())) startNext()
    }
  }

  /** Not for an engine that does not start: another executor may have one. */
  const mayClaim = () =>
    !isClosed &&
    ahead.size < maxAhead &&
    performance.now() >= claimsAgainAtMs &&
    !['failing', 'stopped'].includes(engine.status())

  /** Claims one where none is held, or one that is more urgent; whether it did. */
  async function claimOne(): Promise<boolean> {
    const waiting = [...ahead.values()].filter((held) => !isSlow(held))
    const claimed = await store.claim({
      executor: name,
      resident: nextResident(),
      patienceMs: options.patienceMs,
      above: waiting.length === 0 ? undefined : Math.max(...waiting.map((one) => one.priority)),
    })
    if (claimed) {
      const held = hold(claimed, options.settings, options.feed)
      fetchFor(held, options.sources)
      await keep(held)
    } else if (!running && ahead.size === 0) return takeOver()
    return claimed !== undefined
  }

  /** The LoRA set that will be in place when what is held has run. */
  const nextResident = () => [...ahead.values()].at(-1)?.loraSet ?? running?.held.loraSet ?? lastSet

  /** An idle executor runs what a busy one only holds. */
  async function takeOver(): Promise<boolean> {
    const held = options.takeFromBusy()
    if (!held) return false
    const claim = await store.takeOver(held.claim, name)
    if (claim) {
      held.claim = claim
      await keep(held)
    } else drop(held)
    return claim !== undefined
  }

  async function keep(held: HeldPrediction): Promise<void> {
    if (isClosed) return settlement.release(held)
    ahead.set(held.id, held)
    const timer = setTimeout(() => {
      if (held.state.kind === 'fetching') held.state = { kind: 'fetching', isSlow: true }
      wake()
    }, slowAfterMs)
    held.fetched.finally(() => {
      clearTimeout(timer)
      wake()
    })
    // What is there at once is ready for the caller.
    if (held.work.loras.length === 0 && held.work.input.image === undefined) await held.fetched
  }

  function settleFailures(): void {
    for (const held of [...ahead.values()]) {
      if (held.state.kind !== 'failed') continue
      ahead.delete(held.id)
      settlement
        .settleFailed(held, held.state.error)
        .catch((error: unknown) => onFault(error, held.id))
    }
  }

  function startNext(): void {
    if (running || isClosed) return
    const held = firstReady(ahead.values())
    if (!held) return
    ahead.delete(held.id)
    running = { held, lorasAreReady: false, prefetched: undefined }
    run = execute(held)
      .catch((error: unknown) => onFault(error, held.id))
      .finally(() => {
        running = undefined
        lastSet = held.loraSet
        idleSinceMs = performance.now()
        releaseAssets(held)
        wake()
      })
  }

  /** Once the running one's LoRAs are in place, the engine has time for those of the next one. */
  function prefetchNext(): void {
    const next = firstReady(ahead.values())
    if (!running?.lorasAreReady || !next || next.id === running.prefetched) return
    if (next.draft.kind === 'invalid') return
    running.prefetched = next.id
    engine.prefetch(next.draft, next.state.assets.loras)
  }

  async function execute(held: ReadyPrediction): Promise<void> {
    const stopCheckpoints = settlement.checkpoint(held)
    try {
      const report = await runWithRetry(held, {
        ...options,
        begin: (logs) => settlement.begin(held, logs),
        onLorasReady,
      })
      options.throughput.record(report.cost, report.spent)
      const loraSwitchMs = Math.round(switchMs(held, report))
      await settlement.settle(held, (state) => succeed(measure(state, { loraSwitchMs })))
    } catch (error) {
      if (isStopping) return await settlement.release(held)
      if (isEngineStopped(error)) return await giveUp(held, error)
      await settlement.settleFailed(held, error)
    } finally {
      stopCheckpoints()
    }
  }

  /** An engine that was started anew for a second run does not know what was prefetched. */
  function onLorasReady(): void {
    if (running) running = { held: running.held, lorasAreReady: true, prefetched: undefined }
    wake()
  }

  /** How long the engine stood still for LoRAs, and how long it took to switch to them. */
  function switchMs(
    { state: { assets } }: ReadyPrediction,
    { loraSeconds }: AttemptReport,
  ): number {
    if (assets.loras.length === 0) return 0
    const stoodStillMs = assets.lorasReadyAtMs - Math.max(assets.lorasBeganAtMs, idleSinceMs)
    return Math.max(0, stoodStillMs) + 1000 * loraSeconds
  }

  /** Without an engine nothing is lost: what is held waits again. */
  async function giveUp(held: HeldPrediction, error: unknown): Promise<void> {
    claimsAgainAtMs = performance.now() + engineLostPauseMs
    onFault(error, held.id)
    await settlement.release(held)
    await releaseAhead()
  }

  /** The last one first, so that the first one stands before the others again. */
  async function releaseAhead(): Promise<void> {
    const held = [...ahead.values()].reverse()
    ahead.clear()
    for (const one of held) await settlement.release(one)
  }

  function drop(held: HeldPrediction): void {
    ahead.delete(held.id)
    held.abort.abort()
    releaseAssets(held)
    held.feed.close()
  }

  async function drain(): Promise<void> {
    isClosed = true
    await claiming
    await releaseAhead()
    await run
  }

  return {
    status: () => ({
      name,
      gpu: options.gpu,
      engine: engine.status(),
      pid: engine.pid(),
      running: running?.held.id,
      ahead: [...ahead.keys()],
    }),
    wake,
    ended(id) {
      const held = ahead.get(id)
      if (held) drop(held)
      if (running?.held.id === id) running.held.abort.abort()
      wake()
    },
    yieldAhead() {
      const [held] = running ? ahead.values() : []
      if (held) ahead.delete(held.id)
      return held
    },
    drain,
    async stop() {
      isStopping = true
      running?.held.abort.abort()
      await drain()
    },
  }
}

type Running = {
  readonly held: ReadyPrediction
  /** The engine has time for the LoRAs of the next one. */
  readonly lorasAreReady: boolean
  /** The prediction whose LoRAs the engine prefetches. */
  prefetched: string | undefined
}

const isSlow = ({ state }: HeldPrediction) => state.kind === 'fetching' && state.isSlow
