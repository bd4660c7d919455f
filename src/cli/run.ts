/** `fluxd run`: one prediction without a server. Pictures go to files, progress to stderr. */
import { access, constants, writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { pino } from 'pino'
import type { Config } from '../config.js'
import { type Engine, startEngine } from '../engine/engine.js'
import type { GenerationEvent } from '../engine/protocol.js'
import { invalidInput } from '../errors.js'
import { planGeneration } from '../plan/generation.js'
import type { GenerationPlan, NoiseSource } from '../plan/plan.js'
import { drawSeed } from '../predictions/seed.js'
import { showProgress } from './progress.js'
import { listPaths, readWish, type WishFlags } from './wish.js'

export type RunFlags = WishFlags & {
  readonly checkpoint?: string
  readonly noise?: NoiseSource
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
  const plan = planGeneration(readWish(prompt, flags), { drawnSeed: drawSeed(), noise })
  const paths = listPaths(flags.output, plan.count)
  await expectFolder(dirname(resolve(flags.output)))
  for (const note of plan.notes) context.stderr.write(`${note}\n`)

  const engine = startEngineFor(plan, flags.checkpoint, context)
  try {
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

function startEngineFor(plan: GenerationPlan, checkpoint: string | undefined, context: RunContext) {
  const { config, start = startEngine } = context
  const checkpoints = checkpoint
    ? { ...config.checkpoints, [plan.variant]: resolve(checkpoint) }
    : config.checkpoints
  // The default level would write log lines through the progress bar.
  const level = config.logLevel === 'info' ? 'warn' : config.logLevel
  return start({ checkpoints, threads: config.threads }, pino({ level }, pino.destination(2)))
}

async function generateWithProgress(engine: Engine, plan: GenerationPlan, context: RunContext) {
  const progress = showProgress(plan.steps * plan.count, context.stderr)
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
