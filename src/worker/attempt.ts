/** One run of a prepared prediction on the engine: pictures become files as they arrive. */
import { setTimeout as delay } from 'node:timers/promises'
import type { OutputFile } from '../contract/prediction.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { FluxdError } from '../errors.js'
import type { Files } from '../files/files.js'
import type { GenerationPlan } from '../plan/plan.js'
import { type Work, workOf } from '../predictions/cost.js'
import type { Spent } from '../predictions/throughput.js'
import type { Preparation } from './assets.js'
import type { Engine } from './engine/client.js'
import { decide, type PlanSettings } from './inputImages.js'
import { createNarrator } from './logLines.js'
import type { Previews } from './previews.js'

export type RunContext = {
  readonly engine: Pick<Engine, 'generate' | 'measure' | 'prepare'>
  readonly files: Pick<Files, 'add'>
  readonly settings: PlanSettings
}

export type RunHooks = {
  readonly predictionId: string
  readonly signal: AbortSignal
  /** The engine takes it up. */
  readonly begin: () => Promise<void>
  /** Its LoRAs are in place. */
  readonly onAdapted: () => void
  readonly writeLine: (line: string) => void
  readonly addOutput: (file: OutputFile) => void
  readonly previews: Pick<Previews, 'show' | 'wish'>
}

/** What the run took, without loading weights; `loraSeconds` for switching to its LoRAs. */
export type RunReport = {
  readonly work: Work
  readonly spent: Spent
  readonly loraSeconds: number
}

type ImageEvent = Extract<GenerationEvent, { kind: 'image' }>

/** Resolves when all files are on disk; throws what the engine throws. */
export async function runOnce(
  preparation: Preparation,
  { engine, files, settings }: RunContext,
  { predictionId, signal, begin, onAdapted, writeLine, addOutput, previews }: RunHooks,
): Promise<RunReport> {
  const { input, loras } = preparation
  const plan = await decide(input, preparation.files, settings, engine, loras)
  const onTurn = async () => {
    await begin()
    for (const note of plan.notes) writeLine(note)
  }
  const withNames = nameLoras(preparation.loraNames)
  const narrate = createNarrator(plan, withNames)
  const writing: Promise<void>[] = []
  const save = async (event: ImageEvent) => {
    const file = { kind: 'output', predictionId, ...describeFile(event, plan) } as const
    const { id, size } = await untilThereIsRoom(() => files.add(file), signal)
    if (signal.aborted) return
    addOutput({ index: event.index, name: file.name, mimeType: event.mimeType, size, fileId: id })
  }
  const onEvent = (event: GenerationEvent) => {
    for (const line of narrate(event)) writeLine(line)
    if (event.kind === 'adapted') onAdapted()
    if (event.kind === 'preview') previews.show(predictionId, event)
    if (event.kind !== 'image') return
    const saving = save(event)
    // Awaited with the others; a failure until then must not count as unhandled.
    saving.catch(() => {})
    writing.push(saving)
  }
  try {
    const { timings } = await engine.generate(plan, {
      signal,
      onEvent,
      onTurn,
      previews: previews.wish(predictionId),
    })
    await Promise.all(writing)
    const { total, lora, denoise: steps } = timings
    return { work: workOf(plan), spent: { steps, rest: total - lora - steps }, loraSeconds: lora }
  } catch (error) {
    throw withoutPaths(error, withNames)
  } finally {
    await Promise.allSettled(writing)
  }
}

/** The engine knows LoRAs by their paths; a client knows them by what it sent. */
const nameLoras = (names: Preparation['loraNames']) => (text: string) =>
  [...names].reduce((named, [path, name]) => named.replaceAll(path, name), text)

function withoutPaths(error: unknown, withNames: (text: string) => string): unknown {
  if (!(error instanceof FluxdError) || error.code !== 'lora_invalid') return error
  return new FluxdError(error.code, withNames(error.message), { cause: error })
}

const describeFile = ({ index, bytes, mimeType }: ImageEvent, { output }: GenerationPlan) => ({
  name: `out-${index}.${output.format}`,
  contentType: mimeType,
  bytes,
})

const roomPollMs = 1000

/** A full disk loses nothing that was promised: `write` is tried again until it works. */
export async function untilThereIsRoom<T>(
  write: () => T | Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  for (;;) {
    try {
      return await write()
    } catch (error) {
      if (!(error instanceof FluxdError) || error.code !== 'storage_full') throw error
      if (signal.aborted) throw error
      await delay(roomPollMs, undefined, { signal }).catch(() => {})
    }
  }
}
