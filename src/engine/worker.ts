/**
 * The engine process: owns the sessions, runs one command after another, and answers with events.
 * A cancel ends runs of the addon, and the next prediction's LoRAs are prefetched during them. Runs
 * of onnxruntime-node hold the thread: there a cancel is received between steps.
 */
import { totalmem } from 'node:os'
import { FluxdError, toErrorRecord } from '../errors.js'
import type { Precision, Variant, WeightsPlan } from '../plan/plan.js'
import { finishPlan } from '../plan/planGeneration.js'
import { measureImage } from './images/decode.js'
import { createModelMemory, type ManagedModel } from './models/memory.js'
import { createMemoryBudget, type Resident } from './models/memoryBudget.js'
import { linearRunBytes } from './models/memoryEstimate.js'
import { loadModels, type Models } from './models/models.js'
import { openSafetyChecker, type SafetyChecker } from './models/safetyChecker.js'
import type { Decoding } from './models/vae.js'
import { generate, type PreviewHooks } from './pipeline/generate.js'
import type { SafetyGate } from './pipeline/safetyGate.js'
import type {
  EngineCommand,
  EngineConfig,
  EngineEvent,
  MemoryEstimate,
  MemoryPart,
} from './protocol.js'
import type { Backend } from './runtime/backends/backend.js'
import { openBackend } from './runtime/backends/open.js'

type GenerateCommand = Extract<EngineCommand, { kind: 'generate' }>
type Running = {
  readonly controller: AbortController
  wantsPreviews: boolean
}

// Each preview takes time from the image; more frequent ones would not be noticed.
const previewPauseMs = 500

const config: EngineConfig = JSON.parse(process.argv[2] ?? '{}')
const loaded = new Map<Variant, Models>()
const capacity = config.memoryBytes ?? totalmem() / 2
const memory = createModelMemory(createMemoryBudget(capacity), warn)
let backend: Backend | undefined
let checker: ManagedModel<SafetyChecker> | undefined
// Registered when its command arrives, so that a cancel that follows at once is not lost.
const active = new Map<string, Running>()
let tail: Promise<void> = Promise.resolve()

/** An event that cannot be sent is lost with the parent, and the disconnect ends the process. */
function send(event: EngineEvent): void {
  process.send?.(event, () => {})
}

function warn(message: string): void {
  send({ kind: 'warning', message })
}

const decoding: Decoding = {
  dtype: config.vae === 'float16' ? 'F16' : 'F32',
  onOverflow: () => warn(overflow),
}

const overflow =
  'an image left the range of float16: images are decoded in float32 from now on, ' +
  'as with FLUXD_VAE=float32'

/** Opened when it is first needed, so that its failure fails a load and not the process. */
const ensureBackend = () =>
  (backend ??= openBackend(config.device ?? 'cpu', config.backend, {
    cudaGraphs: config.cudaGraphs,
    onWarning: warn,
  }))

async function ensureLoaded(variant: Variant): Promise<Models> {
  const present = loaded.get(variant)
  if (present) return present
  const { checkpoints, threads, scratch } = config
  const backend = ensureBackend()
  const settings = { threads, scratch, backend, memory, decoding, onWarning: warn }
  const models = await loadModels(variant, checkpoints[variant], settings)
  loaded.set(variant, models)
  send({ kind: 'memoryEstimate', variant, estimate: estimateMemory(models) })
  return models
}

function estimateMemory({ transformers, decoder, shapes }: Models): MemoryEstimate {
  const parts = (precision: Precision) => [transformers[precision], decoder].map(toPart)
  const safety = findChecker()
  return {
    ...linearRunBytes(shapes),
    capacity,
    weights: { bf16: parts('bf16'), fp8: parts('fp8') },
    checker: safety && toPart(safety),
  }
}

const toPart = ({ name, bytes }: Resident): MemoryPart => ({ name, bytes })

/**
 * The checker for an estimate: a broken one fails loads and checked predictions, not all others.
 */
function findChecker(): ManagedModel<SafetyChecker> | undefined {
  try {
    return ensureChecker()
  } catch (error) {
    const { message } = toErrorRecord(error)
    send({ kind: 'warning', message: `the safety checker cannot be opened: ${message}` })
    return undefined
  }
}

function ensureChecker(): ManagedModel<SafetyChecker> | undefined {
  if (config.safety === undefined) return undefined
  checker ??= openSafetyChecker(config.safety, config.threads, ensureBackend(), memory)
  return checker
}

/** The gate of a draft with `checkSafety`; a broken checker does not fail the other drafts. */
function openGate({ id, draft }: GenerateCommand): SafetyGate | undefined {
  const present = draft.checkSafety ? ensureChecker() : undefined
  return (
    present && {
      checker: present,
      onFlagged: (image) => send({ kind: 'flagged', id, image }),
      onError: (reason) => send({ kind: 'safetyError', id, reason }),
    }
  )
}

async function load(variant: Variant) {
  try {
    await ensureLoaded(variant)
    const gate = ensureChecker()
    const release = await memory.acquire(gate ? [gate] : [])
    release()
    send({ kind: 'loaded', variant })
  } catch (error) {
    await endIfLost(error)
    send({ kind: 'loadFailed', variant, error: toErrorRecord(error) })
  }
}

async function release(variant: Variant) {
  await loaded.get(variant)?.release()
  loaded.delete(variant)
  send({ kind: 'released', variant })
}

/** Bytes that users sent are parsed in this process only. */
async function planOf({ id, draft, image: bytes, mask, loras }: GenerateCommand) {
  const image = bytes && { bytes, size: await measureImage(bytes) }
  const plan = finishPlan(draft, { image, mask, loras })
  send({ kind: 'planned', id, size: plan.size, imageSize: image?.size })
  return plan
}

async function runGeneration(command: GenerateCommand, own: Running) {
  const { id, draft } = command
  const startedAt = performance.now()
  try {
    const plan = await planOf(command)
    const models = await ensureLoaded(draft.variant)
    const safety = openGate(command)
    const loadSeconds = (performance.now() - startedAt) / 1000
    const timings = await generate(plan, models, {
      signal: own.controller.signal,
      onLorasReady: (seconds, notes) => send({ kind: 'lorasReady', id, seconds, notes }),
      onProgress: (progress) => send({ kind: 'progress', id, ...progress }),
      onImage: (index, image) => send({ kind: 'image', id, index, ...image }),
      previews: openPreviews(id, own),
      safety,
    })
    send({ kind: 'done', id, timings: { load: loadSeconds, ...timings } })
  } catch (error) {
    await endIfLost(error)
    const failure = own.controller.signal.aborted
      ? new FluxdError('canceled', 'The prediction was canceled')
      : error
    send({ kind: 'failed', id, error: toErrorRecord(failure) })
  } finally {
    active.delete(id)
  }
}

function openPreviews(id: string, own: Running): PreviewHooks {
  let shownAtMs = Number.NEGATIVE_INFINITY
  return {
    isDue: () => own.wantsPreviews && performance.now() - shownAtMs >= previewPauseMs,
    onPreview(progress, preview) {
      shownAtMs = performance.now()
      send({ kind: 'preview', id, ...progress, ...preview })
    },
  }
}

/** Not queued: runs while a generation does. A variant that is not loaded prefetches nothing. */
function prefetch({ variant, precision, loras }: WeightsPlan) {
  void loaded.get(variant)?.prefetch(precision, loras)
}

/** A process that has lost its GPU cannot recover it: the parent starts another process. */
async function endIfLost(error: unknown) {
  if (!(error instanceof FluxdError) || error.code !== 'engine_died') return
  const event: EngineEvent = { kind: 'deviceLost', reason: `has lost the GPU (${error.message})` }
  await new Promise<void>((resolve) => process.send?.(event, () => resolve()) ?? resolve())
  process.exit(1)
}

function enqueue(work: () => Promise<void>) {
  tail = tail.then(work)
}

function enqueueGeneration(command: GenerateCommand) {
  const own = { controller: new AbortController(), wantsPreviews: command.wantsPreviews }
  active.set(command.id, own)
  enqueue(() => runGeneration(command, own))
}

function setPreviews({ id, isWanted }: Extract<EngineCommand, { kind: 'preview' }>) {
  const own = active.get(id)
  if (own) own.wantsPreviews = isWanted
}

process.on('message', (command: EngineCommand) => {
  switch (command.kind) {
    case 'load':
      return enqueue(() => load(command.variant))
    case 'generate':
      return enqueueGeneration(command)
    case 'release':
      return enqueue(() => release(command.variant))
    case 'cancel':
      return active.get(command.id)?.controller.abort()
    case 'preview':
      return setPreviews(command)
    case 'prefetch':
      return prefetch(command)
    case 'shutdown':
      return process.exit(0)
    default:
      throw new TypeError(`Unknown command ${JSON.stringify(command satisfies never)}`)
  }
})
// Without its parent an engine has no requests; the parent handles signals.
process.on('disconnect', () => process.exit(0))
process.on('SIGINT', () => {})
send({ kind: 'ready' })
