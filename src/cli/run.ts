/** `fluxd run`: one prediction without a server. Pictures go to files, progress to stderr. */
import { access, constants, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../config/config.js'
import type { FluxInput } from '../contract/input.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { invalidInput } from '../errors.js'
import { createMediaClient } from '../net/fetchMedia.js'
import { type GenerationPlan, type NoiseSource, stepsToRun, type Variant } from '../plan/plan.js'
import { checkWish } from '../plan/planGeneration.js'
import { type Engine, startEngine } from '../worker/engine/client.js'
import { decide, fetchInputs, type InputFiles, type PlanSettings } from '../worker/inputImages.js'
import { createSafetyNarrator } from '../worker/safetyLines.js'
import { chooseTarget } from './doctor.js'
import { withFileUris } from './fileInputs.js'
import { listPaths, readLoraFlag, readWish, type WishFlags } from './inputFlags.js'
import { showProgress } from './stepBar.js'

export type RunFlags = WishFlags & {
  readonly checkpoint?: string
  readonly noise?: NoiseSource
  readonly lora?: readonly string[]
}

/** What the command needs of its surroundings. */
export type RunContext = {
  readonly config: Config
  readonly signal: AbortSignal
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WriteStream
  readonly start?: typeof startEngine
}

/** Plans, generates and writes; throws one sentence about what is wrong, before any work if it can. */
export async function runPrompt(prompt: string, flags: RunFlags, context: RunContext) {
  const wish = readWish(prompt, await withFileUris(flags))
  checkWish(wish)
  const loras = (flags.lora ?? []).map(readLoraFlag)
  const paths = listPaths(flags.output, wish.num_outputs)
  await expectFolder(dirname(resolve(flags.output)))
  const files = await fetchFiles(wish, context.signal)

  const engine = await startEngineFor(wish.model, flags.checkpoint, context)
  try {
    const plan = await decide(wish, files, readSettings(flags, context), engine, { more: loras })
    for (const note of plan.notes) context.stderr.write(`${note}\n`)
    const { images, timings } = await generateWithProgress(engine, plan, context)
    await Promise.all(images.map(({ bytes, index }) => writeFile(paths[index]!, bytes)))
    const written = images.map(({ index }) => paths[index]!)
    const { width, height } = plan.size
    context.stdout.write(
      `${written.join(', ')}: ${width}×${height}, seed ${plan.seed}, ${timings.total.toFixed(1)} s\n`,
    )
  } finally {
    await engine.stop()
  }
}

/** What flags and settings decide for every plan. */
export const readSettings = (flags: RunFlags, { config }: RunContext): PlanSettings => ({
  noise: flags.noise ?? config.noise,
  goFastLoraMultiplier: config.goFastLoraMultiplier,
  safetyChecker: config.safetyModel !== undefined,
})

/** Whoever runs the command may reach every server that their machine reaches. */
async function fetchFiles(wish: FluxInput, signal: AbortSignal): Promise<InputFiles> {
  const media = createMediaClient({ allowAddress: () => true })
  try {
    return await fetchInputs(wish, media, signal)
  } finally {
    await media.close()
  }
}

/** An engine whose checkpoint of `variant` may be another than the settings say. */
export async function startEngineFor(
  variant: Variant,
  checkpoint: string | undefined,
  context: RunContext,
) {
  const { config, start = startEngine } = context
  const checkpoints = checkpoint
    ? { ...config.checkpoints, [variant]: resolve(checkpoint) }
    : config.checkpoints
  // The default level would write log lines through the progress bar.
  const level = config.logLevel === 'info' ? 'warn' : config.logLevel
  const { cudaGraphs, threads, vae, safetyModel: safety } = config
  const target = await chooseTarget(config)
  const scratch = join(config.dataDir, 'scratch')
  const logger = pino({ level }, pino.destination(2))
  const own = { checkpoints, ...target, vae, cudaGraphs, threads, scratch, safety }
  return start(own, logger)
}

async function generateWithProgress(engine: Engine, plan: GenerationPlan, context: RunContext) {
  const progress = showProgress(stepsToRun(plan) * plan.count, context.stderr)
  const describeSafety = createSafetyNarrator(plan)
  const lines: string[] = []
  const onEvent = (event: GenerationEvent) => {
    if (event.kind === 'progress') progress.update(event.image * event.steps + event.step)
    if (event.kind === 'adapted') lines.push(...event.notes)
    const line = describeSafety(event)
    if (line !== undefined) lines.push(line)
  }
  try {
    return await engine.generate(plan, { signal: context.signal, onEvent })
  } finally {
    progress.stop()
    for (const line of lines) context.stderr.write(`${line}\n`)
  }
}

/** Found out before the pictures are made, not after. */
async function expectFolder(folder: string): Promise<void> {
  try {
    await access(folder, constants.W_OK)
  } catch {
    throw invalidInput(`Expected the folder of --output to be writable but received ${folder}`)
  }
}
