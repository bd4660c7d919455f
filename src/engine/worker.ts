/**
 * The engine process: owns the sessions, runs one command after another, and answers with events.
 * A cancel is heard between steps, because a run of ONNX Runtime holds the thread.
 */
import { FluxdError, toErrorRecord } from '../errors.js'
import { measureImage } from '../media/images.js'
import { generate } from '../pipeline/generate.js'
import { loadModels, type Models } from '../pipeline/models.js'
import type { Variant } from '../plan/plan.js'
import type { EngineCommand, EngineConfig, EngineEvent } from './protocol.js'

type GenerateCommand = Extract<EngineCommand, { kind: 'generate' }>

const config: EngineConfig = JSON.parse(process.argv[2] ?? '{}')
const loaded = new Map<Variant, Models>()
let running: { readonly id: string; readonly controller: AbortController } | undefined
let tail: Promise<void> = Promise.resolve()

const send = (event: EngineEvent) => void process.send?.(event)

async function ensureLoaded(variant: Variant): Promise<Models> {
  const present = loaded.get(variant)
  if (present) return present
  const models = await loadModels(variant, config.checkpoints[variant], config.threads)
  loaded.set(variant, models)
  return models
}

async function load(variant: Variant) {
  try {
    await ensureLoaded(variant)
    send({ kind: 'loaded', variant })
  } catch (error) {
    send({ kind: 'loadFailed', variant, error: toErrorRecord(error) })
  }
}

async function release(variant: Variant) {
  await loaded.get(variant)?.release()
  loaded.delete(variant)
  send({ kind: 'released', variant })
}

async function measure(image: Uint8Array) {
  try {
    send({ kind: 'measured', size: await measureImage(image) })
  } catch (error) {
    send({ kind: 'measureFailed', error: toErrorRecord(error) })
  }
}

async function runGeneration({ id, plan }: GenerateCommand) {
  const controller = new AbortController()
  running = { id, controller }
  const startedAt = performance.now()
  try {
    const models = await ensureLoaded(plan.variant)
    const loadSeconds = (performance.now() - startedAt) / 1000
    const timings = await generate(plan, models, {
      signal: controller.signal,
      onProgress: (progress) => send({ kind: 'progress', id, ...progress }),
      onImage: (index, image) => send({ kind: 'image', id, index, ...image }),
    })
    send({ kind: 'done', id, timings: { load: loadSeconds, ...timings } })
  } catch (error) {
    const failure = controller.signal.aborted
      ? new FluxdError('canceled', 'The prediction was canceled')
      : error
    send({ kind: 'failed', id, error: toErrorRecord(failure) })
  } finally {
    running = undefined
  }
}

function enqueue(work: () => Promise<void>) {
  tail = tail.then(work)
}

process.on('message', (command: EngineCommand) => {
  switch (command.kind) {
    case 'load':
      return enqueue(() => load(command.variant))
    case 'measure':
      return enqueue(() => measure(command.image))
    case 'generate':
      return enqueue(() => runGeneration(command))
    case 'release':
      return enqueue(() => release(command.variant))
    case 'cancel':
      if (running?.id === command.id) running.controller.abort()
      return
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
