/**
 * The API process's side of the engine: keeps one engine process alive, gives it one command at a
 * time, and turns its events into promises.
 */
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import { FluxdError, fromErrorRecord } from '../errors.js'
import type { EncodedImage } from '../media/encoding.js'
import { type DrawSizes, expectRoom } from '../pipeline/footprint.js'
import type { GenerationPlan, PixelSize, Variant, WeightsPlan } from '../plan/plan.js'
import { type EngineProcess, startProcess } from './process.js'
import type {
  EngineCommand,
  EngineConfig,
  EngineEvent,
  GenerationEvent,
  GenerationTimings,
} from './protocol.js'

export type EngineStatus = 'starting' | 'ready' | 'busy' | 'restarting' | 'stopped'

/** `index` counts all pictures of the prediction, those that the safety checker left out too. */
export type GeneratedImage = EncodedImage & { readonly index: number }

export type GenerationResult = {
  readonly images: readonly GeneratedImage[]
  readonly timings: GenerationTimings
}

export type GenerateOptions = {
  readonly signal?: AbortSignal
  readonly onEvent?: (event: GenerationEvent) => void
  /** Called when the engine is there and takes it up; it begins when this resolves. */
  readonly onTurn?: () => Promise<void>
  readonly previews?: PreviewWish
}

/** Whether anybody wants to see previews; they are only made for those who watch. */
export type PreviewWish = {
  readonly isWanted: () => boolean
  /** Calls `listener` when that changes; returns how to stop. */
  readonly onChange: (listener: () => void) => () => void
}

/** The API process's view of one engine process. */
export type Engine = {
  readonly status: () => EngineStatus
  /** The process that runs now; another one after a restart. */
  readonly pid: () => number | undefined
  /** Loads a variant ahead of the first prediction; throws what is wrong with its checkpoint. */
  readonly load: (variant: Variant) => Promise<void>
  /**
   * The size of a picture that a user sent: its bytes are only read in the engine's process.
   * Throws `invalid_input` when they are no picture.
   */
  readonly measure: (image: Uint8Array) => Promise<PixelSize>
  /**
   * Runs one prediction; predictions wait for each other in order of arrival.
   * Throws `canceled` when `signal` aborts and `engine_died` when the process died under it.
   */
  readonly generate: (plan: GenerationPlan, options?: GenerateOptions) => Promise<GenerationResult>
  /**
   * Throws `not_supported`, with the numbers, where a plan can never fit into the device's memory, as
   * far as that is known: nothing is before a variant is loaded.
   */
  readonly expectRoom: (
    plan: Pick<GenerationPlan, 'variant' | 'precision' | 'size' | 'checkSafety'>,
  ) => void
  /**
   * Has the LoRAs of what probably comes next read and uploaded while the present one runs. Nothing
   * depends on it: it fails silently, and a process that is started anew does not know of it.
   */
  readonly prepare: (next: WeightsPlan) => void
  /** Gives a variant's memory back. */
  readonly release: (variant: Variant) => Promise<void>
  readonly stop: () => Promise<void>
}

/** What the engine is working on: settles with the event that ends it. */
type Task = {
  readonly onEvent: (event: EngineEvent) => void
  readonly reject: (error: Error) => void
}

const firstRestartMs = 100
// A process that keeps dying before it is ready will not do better the next time.
const maxFailedStarts = 5

/** Starts an engine process and keeps it running until `stop`. */
export function startEngine(config: EngineConfig, logger: Logger): Engine {
  let status: EngineStatus = 'starting'
  const sizes = new Map<Variant, DrawSizes>()
  let task: Task | undefined
  let tail: Promise<unknown> = Promise.resolve()
  let failedStarts = 0
  /** What a process said before it ended itself. */
  let lostBecause: string | undefined
  let ready = waitForReady()
  let child = start()

  function start(): EngineProcess {
    return startProcess(config, { onEvent, onExit })
  }

  function onEvent(event: EngineEvent) {
    if (event.kind === 'sizes') return void sizes.set(event.variant, event.sizes)
    if (event.kind === 'notice') return logger.warn(event.message)
    if (event.kind === 'lost') lostBecause = event.reason
    if (event.kind !== 'ready') return task?.onEvent(event)
    if (status === 'stopped') return
    status = 'ready'
    failedStarts = 0
    ready.resolve()
  }

  function onExit(end: string) {
    const reason = lostBecause ?? end
    lostBecause = undefined
    fail(`The engine process ${reason} while it worked on this; it is being restarted`)
    if (status === 'stopped') return
    logger.error({ reason }, 'the engine process is gone')
    if (failedStarts++ === maxFailedStarts) return giveUp(reason)
    // Whoever waits for a process that never became ready goes on waiting for the next one.
    if (status === 'ready' || status === 'busy') ready = waitForReady()
    status = 'restarting'
    setTimeout(restart, firstRestartMs * 2 ** failedStarts)
  }

  function restart() {
    if (status === 'restarting') child = start()
  }

  function giveUp(reason: string) {
    status = 'stopped'
    ready.reject(new FluxdError('engine_failed', `The engine process does not start: it ${reason}`))
  }

  function fail(message: string) {
    task?.reject(new FluxdError('engine_died', message))
  }

  function throwIfStopped() {
    if (status === 'stopped') throw new FluxdError('not_ready', 'The engine is stopped')
  }

  /** One command after the other; the next starts when the process is ready for it. */
  function exclusively<T>(work: () => Promise<T>): Promise<T> {
    const turn = tail.then(async () => {
      throwIfStopped()
      await ready.promise
      throwIfStopped()
      status = 'busy'
      try {
        return await work()
      } finally {
        task = undefined
        if (status === 'busy') status = 'ready'
      }
    })
    tail = turn.catch(() => {})
    return turn
  }

  /** Sends a command and lets `settle` watch the events until it resolves or rejects. */
  function request<T>(
    command: EngineCommand,
    settle: (
      event: EngineEvent,
      resolve: (value: T) => void,
      reject: (error: Error) => void,
    ) => void,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      task = { onEvent: (event) => settle(event, resolve, reject), reject }
      child.send(command)
    })
  }

  async function generate(
    plan: GenerationPlan,
    { signal, onEvent: notify, onTurn, previews }: GenerateOptions = {},
  ) {
    const id = randomUUID()
    const images: GeneratedImage[] = []
    const cancel = () => child.send({ kind: 'cancel', id })
    const wantsPreviews = () => previews?.isWanted() ?? false
    return exclusively(async () => {
      throwIfCanceled(signal)
      await onTurn?.()
      throwIfCanceled(signal)
      signal?.addEventListener('abort', cancel, { once: true })
      const stopTelling = previews?.onChange(() =>
        child.send({ kind: 'preview', id, isWanted: wantsPreviews() }),
      )
      try {
        return await request<GenerationResult>(
          { kind: 'generate', id, plan, wantsPreviews: wantsPreviews() },
          (event, resolve, reject) => {
            if (!('id' in event) || event.id !== id) return
            notify?.(event)
            if (event.kind === 'image') {
              const { index, bytes, mimeType } = event
              images.push({ index, bytes, mimeType })
            }
            if (event.kind === 'done') resolve({ images, timings: event.timings })
            if (event.kind === 'failed') reject(fromErrorRecord(event.error))
          },
        )
      } finally {
        signal?.removeEventListener('abort', cancel)
        stopTelling?.()
      }
    })
  }

  return {
    status: () => status,
    pid: () => child.pid,
    load: (variant) =>
      exclusively(() =>
        request<void>({ kind: 'load', variant }, (event, resolve, reject) => {
          if (event.kind === 'loaded') resolve()
          if (event.kind === 'loadFailed') reject(fromErrorRecord(event.error))
        }),
      ),
    measure: (image) =>
      exclusively(() =>
        request<PixelSize>({ kind: 'measure', image }, (event, resolve, reject) => {
          if (event.kind === 'measured') resolve(event.size)
          if (event.kind === 'measureFailed') reject(fromErrorRecord(event.error))
        }),
      ),
    generate,
    expectRoom(plan) {
      const known = sizes.get(plan.variant)
      if (known) expectRoom(known, plan)
    },
    prepare: ({ variant, precision, loras }) =>
      child.send({ kind: 'prepare', variant, precision, loras }),
    release: (variant) =>
      exclusively(() =>
        request<void>({ kind: 'release', variant }, (event, resolve) => {
          if (event.kind === 'released') resolve()
        }),
      ),
    async stop() {
      status = 'stopped'
      ready.resolve()
      await child.stop()
    },
  }
}

/** A promise that is settled from outside; nobody has to be waiting for it. */
function waitForReady() {
  let resolve = () => {}
  let reject = (_: Error) => {}
  const promise = new Promise<void>((onReady, onFailure) => {
    resolve = onReady
    reject = onFailure
  })
  promise.catch(() => {})
  return { promise, resolve, reject }
}

function throwIfCanceled(signal?: AbortSignal) {
  if (signal?.aborted)
    throw new FluxdError('canceled', 'The prediction was canceled before it started')
}
