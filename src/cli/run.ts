/** `fluxd run`: one prediction without a server. Pictures go to files, progress to stderr. */
import { access, constants, writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../config.js'
import type { FluxInput } from '../contract/input.js'
import { type Engine, startEngine } from '../engine/engine.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { invalidInput } from '../errors.js'
import { createMediaClient } from '../media/fetch.js'
import { checkWish } from '../plan/generation.js'
import { type GenerationPlan, type NoiseSource, stepsToRun, type Variant } from '../plan/plan.js'
import { decide, fetchInputs, type InputFiles } from '../predictions/inputs.js'
import { withFileUris } from './files.js'
import { showProgress } from './progress.js'
import { listPaths, readLoraFlag, readWish, type WishFlags } from './wish.js'

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
  const noise = flags.noise ?? context.config.noise
  const wish = readWish(prompt, await withFileUris(flags))
  checkWish(wish)
  const loras = (flags.lora ?? []).map(readLoraFlag)
  const paths = listPaths(flags.output, wish.num_outputs)
  await expectFolder(dirname(resolve(flags.output)))
  const files = await fetchFiles(wish, context.signal)

  const engine = startEngineFor(wish.model, flags.checkpoint, context)
  try {
    const plan = await decide(wish, files, noise, engine, loras)
    for (const note of plan.notes) context.stderr.write(`${note}\n`)
    const { images, timings } = await generateWithProgress(engine, plan, context)
    await Promise.all(images.map(({ bytes }, index) => writeFile(paths[index]!, bytes)))
    const { width, height } = plan.size
    context.stdout.write(
      `${paths.join(', ')}: ${width}×${height}, seed ${plan.seed}, ${timings.total.toFixed(1)} s\n`,
    )
  } finally {
    await engine.stop()
  }
}

/** Whoever runs the command may reach every server that their machine reaches. */
async function fetchFiles(wish: FluxInput, signal: AbortSignal): Promise<InputFiles> {
  const media = createMediaClient({ allowAddress: () => true })
  try {
    return await fetchInputs(wish, media, signal)
  } finally {
    await media.close()
  }
}

function startEngineFor(variant: Variant, checkpoint: string | undefined, context: RunContext) {
  const { config, start = startEngine } = context
  const checkpoints = checkpoint
    ? { ...config.checkpoints, [variant]: resolve(checkpoint) }
    : config.checkpoints
  // The default level would write log lines through the progress bar.
  const level = config.logLevel === 'info' ? 'warn' : config.logLevel
  return start({ checkpoints, threads: config.threads }, pino({ level }, pino.destination(2)))
}

async function generateWithProgress(engine: Engine, plan: GenerationPlan, context: RunContext) {
  const progress = showProgress(stepsToRun(plan) * plan.count, context.stderr)
  const onEvent = (event: GenerationEvent) => {
    if (event.kind === 'progress') progress.update(event.image * event.steps + event.step)
  }
  try {
    return await engine.generate(plan, { signal: context.signal, onEvent })
  } finally {
    progress.stop()
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
