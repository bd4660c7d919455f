/**
 * The worker's side of an engine: gives an engine process one command at a time, and turns its
 * events into promises.
 */
import { randomUUID } from 'node:crypto'
import type { Logger } from 'pino'
import type {
  EncodedImage,
  EngineCommand,
  EngineConfig,
  EngineEvent,
  GenerateRequest,
  GenerationEvent,
  GenerationTimings,
  MemoryEstimate,
} from '../../engine/protocol.js'
import { FluxdError, fromErrorRecord } from '../../errors.js'
import type { LoraFile, Variant } from '../../plan/plan.js'
import { planWeights, type ValidDraft } from '../../plan/planGeneration.js'
import type { PreviewSubscription } from '../../predictions/feed.js'
import { createHangWatch, type ExpectedSeconds } from './hangWatch.js'
import { assertFits } from './memoryFit.js'
import type { Environment } from './process.js'
import { type Supervisor, superviseProcess } from './supervisor.js'

export type EngineStatus = ReturnType<Supervisor['status']> | 'busy'

/** `index` counts all images of the prediction, also those that the safety checker left out. */
export type GeneratedImage = EncodedImage & { readonly index: number }

export type GenerationResult = {
  readonly images: readonly GeneratedImage[]
  readonly timings: GenerationTimings
}

export type GenerateOptions = {
  readonly signal?: AbortSignal
  readonly onEvent?: (event: GenerationEvent) => void
  /** Called when the engine is there and takes it up; it begins when this resolves. */
  readonly onStart?: () => Promise<void>
  readonly previews?: PreviewSubscription
  /** Seconds that a step is expected to take, and everything beside the steps. */
  readonly expected?: ExpectedSeconds | undefined
}

/** The worker's view of one engine process. */
export type Engine = {
  readonly status: () => EngineStatus
  /** The process that runs now; another one after a restart. */
  readonly pid: () => number | undefined
  /** Loads a variant ahead of the first prediction; throws what is wrong with its checkpoint. */
  readonly load: (variant: Variant) => Promise<void>
  /**
   * Runs one prediction; predictions wait for each other in order of arrival.
   * Throws `canceled` when `signal` aborts and `engine_died` when the process died under it.
   */
  readonly generate: (
    request: GenerateRequest,
    options?: GenerateOptions,
  ) => Promise<GenerationResult>
  /**
   * Throws `not_supported`, with the numbers, where a plan can never fit into the device's memory,
   * as far as that is known: nothing is before a variant is loaded.
   */
  readonly assertFits: (draft: ValidDraft) => void
  /**
   * Has the LoRAs of what probably comes next read and uploaded while the present one runs. Nothing
   * depends on it: what is wrong with a file is found when it runs, and a process that is started
   * anew does not know of it.
   */
  readonly prefetch: (draft: ValidDraft, loras: readonly LoraFile[]) => void
  /** Gives a variant's memory back. */
  readonly release: (variant: Variant) => Promise<void>
  readonly stop: () => Promise<void>
}

/** What the engine is working on: settles with the event that ends it. */
type Task = {
  readonly onEvent: (event: EngineEvent) => void
  readonly reject: (error: Error) => void
}

/** Starts an engine process and keeps it running until `stop`. */
export function startEngine(
  config: EngineConfig,
  logger: Logger,
  environment?: Environment,
): Engine {
  const estimates = new Map<Variant, MemoryEstimate>()
  /** By the process that runs now. */
  const loaded = new Set<Variant>()
  let task: Task | undefined
  let isBusy = false
  let tail: Promise<unknown> = Promise.resolve()
  const supervisor = superviseProcess(config, logger, { onEvent, onDeath }, environment)
  const { send } = supervisor

  function onEvent(event: EngineEvent) {
    if (event.kind === 'memoryEstimate') {
      estimates.set(event.variant, event.estimate)
      loaded.add(event.variant)
    }
    task?.onEvent(event)
  }

  function onDeath(reason: string) {
    loaded.clear()
    const message = `The engine process ${reason} while it worked on this; it is being restarted`
    task?.reject(new FluxdError('engine_died', message))
  }

  /** One command after the other; the next starts when the process is ready for it. */
  function exclusively<T>(work: () => Promise<T>): Promise<T> {
    const turn = tail.then(async () => {
      await supervisor.ready()
      isBusy = true
      try {
        return await work()
      } finally {
        task = undefined
        isBusy = false
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
      send(command)
    })
  }

  async function generate(
    generation: GenerateRequest,
    { signal, onEvent: notify, onStart, previews, expected }: GenerateOptions = {},
  ) {
    const id = randomUUID()
    const images: GeneratedImage[] = []
    const watch = createHangWatch(supervisor.replace, expected)
    const cancel = () => {
      send({ kind: 'cancel', id })
      watch.canceled()
    }
    const wantsPreviews = () => previews?.isWanted() ?? false
    return exclusively(async () => {
      throwIfCanceled(signal)
      await onStart?.()
      throwIfCanceled(signal)
      signal?.addEventListener('abort', cancel, { once: true })
      const stopPreviews = previews?.onChange(() =>
        send({ kind: 'preview', id, isWanted: wantsPreviews() }),
      )
      try {
        watch.sent()
        return await request<GenerationResult>(
          { ...generation, kind: 'generate', id, wantsPreviews: wantsPreviews() },
          (event, resolve, reject) => {
            if (!('id' in event) || event.id !== id) return
            watch.heard(event, loaded.has(generation.draft.variant))
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
        watch.stop()
        signal?.removeEventListener('abort', cancel)
        stopPreviews?.()
      }
    })
  }

  return {
    status: () => (isBusy && supervisor.status() === 'ready' ? 'busy' : supervisor.status()),
    pid: supervisor.pid,
    load: (variant) =>
      exclusively(() =>
        request<void>({ kind: 'load', variant }, (event, resolve, reject) => {
          if (event.kind === 'loaded') resolve()
          if (event.kind === 'loadFailed') reject(fromErrorRecord(event.error))
        }),
      ),
    generate,
    assertFits(draft) {
      const known = estimates.get(draft.variant)
      if (known) assertFits(known, draft)
    },
    prefetch: (draft, loras) => send({ ...planWeights(draft, loras), kind: 'prefetch' }),
    release: (variant) =>
      exclusively(() =>
        request<void>({ kind: 'release', variant }, (event, resolve) => {
          if (event.kind === 'released') resolve()
        }),
      ),
    stop: supervisor.stop,
  }
}

function throwIfCanceled(signal?: AbortSignal) {
  if (signal?.aborted)
    throw new FluxdError('canceled', 'The prediction was canceled before it started')
}
