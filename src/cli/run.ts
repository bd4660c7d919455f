/** `fluxd run`: one prediction without a server. Images go to files, progress to stderr. */
import { access, constants, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../config/config.js'
import type { FluxInput } from '../contract/input.js'
import { chooseTarget } from '../doctor/target.js'
import type { GenerateRequest, GenerationEvent } from '../engine/protocol.js'
import { codeOf, invalidInput } from '../errors.js'
import { createMediaClient } from '../net/fetchMedia.js'
import { type NoiseSource, type PixelSize, stepsToRun, type Variant } from '../plan/plan.js'
import { draftPlan, type PlanSettings, type ValidDraft } from '../plan/planGeneration.js'
import { resolveSeed } from '../plan/seed.js'
import { fetchImages, type InputImages } from '../worker/assets.js'
import { type Engine, type GenerationResult, startEngine } from '../worker/engine/client.js'
import { createSafetyLines } from '../worker/logLines.js'
import {
  chooseOutput,
  type InputFlags,
  listPaths,
  readInputFlags,
  readLoraFlag,
  withFileUris,
} from './inputFlags.js'
import { acquireLoras } from './loras.js'
import { showSteps } from './progressBars.js'

export type RunFlags = InputFlags & {
  readonly checkpoint?: string
  readonly noise?: NoiseSource
  readonly lora?: readonly string[]
}

/** What a command gets from the process: settings, streams, Ctrl-C. Tests pass their own. */
export type RunContext = {
  readonly config: Config
  readonly signal: AbortSignal
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WriteStream
  readonly start?: typeof startEngine
}

/**
 * Plans, generates and writes the images. Throws `invalid_input` for wrong flags, LoRAs or paths
 * before the engine starts.
 */
export async function runPrompt(prompt: string, flags: RunFlags, context: RunContext) {
  const input = readInputFlags(prompt, await withFileUris(flags))
  const draft = expectValid(input, readSettings(flags, context))
  const loraFlags = (flags.lora ?? []).map(readLoraFlag)
  const paths = await choosePaths(flags, draft)
  const images = await fetchInputs(input, context)

  const { loras, release } = await acquireLoras(loraFlags, context)
  try {
    await generateFiles({ draft, loras, ...images }, paths, flags, context)
  } finally {
    await release()
  }
}

/** Generates with an engine of its own, writes the files and prints their names. */
async function generateFiles(
  request: GenerateRequest,
  paths: readonly string[] | 'stdout',
  flags: RunFlags,
  context: RunContext,
): Promise<void> {
  const { draft } = request
  const engine = await startEngineFor(draft.variant, flags.checkpoint, context)
  try {
    for (const note of draft.notes) context.stderr.write(`${note}\n`)
    const { size, images: made, timings } = await generateWithProgress(engine, request, context)
    const pixels = `${size.width}×${size.height}`
    const described = `${pixels}, seed ${draft.seed}, ${timings.total.toFixed(1)} s\n`
    if (paths === 'stdout') {
      for (const { bytes } of made) context.stdout.write(bytes)
      context.stderr.write(described)
      return
    }
    await Promise.all(made.map(({ bytes, index }) => writeFile(paths[index]!, bytes)))
    const written = made.map(({ index }) => paths[index]!).join(', ')
    context.stdout.write(`${written}: ${described}`)
  } finally {
    await engine.stop()
  }
}

/** The files to write, or stdout for `-`. Throws `invalid_input` where they cannot be written. */
async function choosePaths(
  { output }: RunFlags,
  { count, output: { format } }: ValidDraft,
): Promise<readonly string[] | 'stdout'> {
  if (output === '-') {
    if (count === 1) return 'stdout'
    throw invalidInput(`Expected one image for --output - but --num-outputs is ${count}`)
  }
  const chosen = output ?? chooseOutput(format, count)
  await expectFolder(dirname(resolve(chosen)))
  return listPaths(chosen, count)
}

/** The part of a plan that flags and settings decide. */
export const readSettings = (flags: RunFlags, { config }: RunContext): PlanSettings => ({
  noise: flags.noise ?? config.noise,
  goFastLoraMultiplier: config.goFastLoraMultiplier,
  safetyChecker: config.safetyModel !== undefined,
})

/** The draft of `input`, its seed resolved; throws what makes it invalid. */
export function expectValid(input: FluxInput, settings: PlanSettings): ValidDraft {
  const draft = draftPlan({ ...input, seed: resolveSeed(input) }, [], settings)
  if (draft.kind === 'invalid') throw draft.error
  return draft
}

/** The user of the command may fetch from private addresses: the URLs are their own. */
async function fetchInputs(input: FluxInput, { config, signal }: RunContext): Promise<InputImages> {
  const media = createMediaClient({ allowAddress: () => true, proxy: config.proxy })
  try {
    return await fetchImages(input, media, signal)
  } finally {
    await media.close()
  }
}

/**
 * Starts an engine; `checkpoint`, if given, replaces the one that the settings name for `variant`.
 */
export async function startEngineFor(
  variant: Variant,
  checkpoint: string | undefined,
  context: RunContext,
) {
  const { config, start = startEngine } = context
  const checkpoints = checkpoint
    ? { ...config.checkpoints, [variant]: resolve(checkpoint) }
    : config.checkpoints
  // At the default level, log lines would break the progress bar.
  const level = config.logLevel === 'info' ? 'warn' : config.logLevel
  const { cudaGraphs, threads, vae, safetyModel: safety } = config
  const target = await chooseTarget(config)
  const scratch = join(config.dataDir, 'scratch')
  const logger = pino({ level }, pino.destination(2))
  const own = { checkpoints, ...target, vae, cudaGraphs, threads, scratch, safety }
  return start(own, logger)
}

async function generateWithProgress(
  engine: Engine,
  request: GenerateRequest,
  context: RunContext,
): Promise<GenerationResult & { readonly size: PixelSize }> {
  const { draft } = request
  const progress = showSteps(stepsToRun(draft) * draft.count, context.stderr)
  const describeSafety = createSafetyLines(draft)
  const lines: string[] = []
  let size = draft.size
  const onEvent = (event: GenerationEvent) => {
    if (event.kind === 'progress') progress.update(event.image * event.steps + event.step)
    if (event.kind === 'planned') size = event.size
    if (event.kind === 'lorasReady') lines.push(...event.notes)
    const line = describeSafety(event)
    if (line !== undefined) lines.push(line)
  }
  try {
    const result = await engine.generate(request, { signal: context.signal, onEvent })
    return { ...result, size }
  } finally {
    progress.stop()
    for (const line of lines) context.stderr.write(`${line}\n`)
  }
}

/** Checked before the generation, which would be lost otherwise. */
async function expectFolder(folder: string): Promise<void> {
  try {
    await access(folder, constants.W_OK)
  } catch (error) {
    throw invalidInput(
      `Expected the folder of --output to be writable but received ${folder} (${codeOf(error)})`,
    )
  }
}
