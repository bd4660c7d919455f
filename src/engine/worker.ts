/**
 * The engine process: owns the sessions, runs one command after another, and answers with events.
 * A cancel ends the runs of the addon, and beside them the LoRAs of what comes next are got ready. Runs
 * of onnxruntime-node hold the thread: there a cancel is heard between steps.
 */
import { totalmem } from 'node:os'
import { FluxdError, toErrorRecord } from '../errors.js'
import type { Precision, Variant, WeightsPlan } from '../plan/plan.js'
import { finishPlan } from '../plan/planGeneration.js'
import { measureImage } from './images/decode.js'
import { createRoom, type Part } from './models/memory.js'
import { createBudget, type Resident } from './models/memoryBudget.js'
import { linearDrawBytes } from './models/memoryEstimate.js'
import { loadModels, type Models } from './models/models.js'
import { openSafetyChecker, type SafetyChecker } from './models/safetyChecker.js'
import type { Decoding } from './models/vaeDecoder.js'
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

// More often nobody sees the difference, and each takes time from the picture.
const previewPauseMs = 500

const config: EngineConfig = JSON.parse(process.argv[2] ?? '{}')
const loaded = new Map<Variant, Models>()
const capacity = config.memoryBytes ?? totalmem() / 2
const room = createRoom(createBudget(capacity))
let backend: Backend | undefined
let checker: Part<SafetyChecker> | undefined
// From its command on, so that a cancel that follows at once is heard.
const underWay = new Map<string, Running>()
let tail: Promise<void> = Promise.resolve()

// Without a parent there is nobody to be told, and the disconnect ends the process.
const send = (event: EngineEvent) => void process.send?.(event, () => {})

const decoding: Decoding = {
  dtype: config.vae === 'float16' ? 'F16' : 'F32',
  onOverflow: () => send({ kind: 'warning', message: overflow }),
}

const overflow =
  'a picture left the range of float16: from now on they are decoded in float32, as with FLUXD_VAE=float32'

/** Opened when it is first needed, so that what is wrong with it fails a load and not the process. */
const ensureBackend = () =>
  (backend ??= openBackend(config.device ?? 'cpu', config.backend, config.cudaGraphs))

async function ensureLoaded(variant: Variant): Promise<Models> {
  const present = loaded.get(variant)
  if (present) return present
  const { checkpoints, threads, scratch } = config
  const settings = { threads, scratch, backend: ensureBackend(), room, decoding }
  const models = await loadModels(variant, checkpoints[variant], settings)
  loaded.set(variant, models)
  send({ kind: 'memoryEstimate', variant, estimate: estimateMemory(models) })
  return models
}

function estimateMemory({ transformers, decoder, shapes }: Models): MemoryEstimate {
  const parts = (precision: Precision) => [transformers[precision], decoder].map(toPart)
  const safety = findChecker()
  return {
    ...linearDrawBytes(shapes),
    capacity,
    weights: { bf16: parts('bf16'), fp8: parts('fp8') },
    checker: safety && toPart(safety),
  }
}

const toPart = ({ name, bytes }: Resident): MemoryPart => ({ name, bytes })

/** The checker for an estimate: a broken one fails loads and checked predictions, not all others. */
function findChecker(): Part<SafetyChecker> | undefined {
  try {
    return ensureChecker()
  } catch (error) {
    const { message } = toErrorRecord(error)
    send({ kind: 'warning', message: `the safety checker cannot be opened: ${message}` })
    return undefined
  }
}

function ensureChecker(): Part<SafetyChecker> | undefined {
  if (config.safety === undefined) return undefined
  checker ??= openSafetyChecker(config.safety, config.threads, ensureBackend(), room)
  return checker
}

/** The gate of a plan that wants one; what is wrong with the checker is no concern of the others. */
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
    const leave = await room.enter(gate ? [gate] : [])
    leave()
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
    underWay.delete(id)
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

/** Out of turn. A variant that is not loaded has nothing to prefetch. */
function prefetch({ variant, precision, loras }: WeightsPlan) {
  void loaded.get(variant)?.adapters.prepare(precision, loras)
}

/** A process that has lost its GPU gets it back by being another: the parent starts one. */
async function endIfLost(error: unknown) {
  if (!(error instanceof FluxdError) || error.code !== 'engine_died') return
  const event: EngineEvent = { kind: 'deviceLost', reason: `has lost the GPU (${error.message})` }
  await new Promise<void>((told) => process.send?.(event, () => told()) ?? told())
  process.exit(1)
}

function enqueue(work: () => Promise<void>) {
  tail = tail.then(work)
}

function enqueueGeneration(command: GenerateCommand) {
  const own = { controller: new AbortController(), wantsPreviews: command.wantsPreviews }
  underWay.set(command.id, own)
  enqueue(() => runGeneration(command, own))
}

function want({ id, isWanted }: Extract<EngineCommand, { kind: 'preview' }>) {
  const own = underWay.get(id)
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
      return underWay.get(command.id)?.controller.abort()
    case 'preview':
      return want(command)
    case 'prefetch':
      return prefetch(command)
    case 'shutdown':
      return process.exit(0)
    default:
      throw new TypeError(`Unknown command ${JSON.stringify(command satisfies never)}`)
  }
})
// Without its parent an engine has nobody to work for; signals are the parent's to handle.
process.on('disconnect', () => process.exit(0))
process.on('SIGINT', () => {})
send({ kind: 'ready' })
