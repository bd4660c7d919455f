/**
 * One prediction: LoRAs, prompt and start latents → denoising → decoded and encoded images.
 * The order is that of BFL src/flux/cli.py (embed, prepare, get_schedule, denoise, unpack, decode).
 */
import { FluxdError } from '../../errors.js'
import { type GenerationPlan, stepsToRun } from '../../plan/plan.js'
import { floatTensor } from '../../safetensors/tensor.js'
import { encodeImage } from '../images/encode.js'
import { runBytesOf } from '../models/memoryEstimate.js'
import type { Models } from '../models/models.js'
import type { BoundSteps, PromptEmbedding, Transformer } from '../models/transformer.js'
import type { Decoder } from '../models/vae.js'
import type { EncodedImage } from '../protocol.js'
import { denoise } from './denoise.js'
import { type InitLatents, prepareInitLatents } from './initLatents.js'
import { packLatents, ropeTables, tokenGrid, unpackLatents } from './latents.js'
import { makePreview } from './preview.js'
import { startNoise } from './rng/randn.js'
import { chooseGate, isSafe, type SafetyGate } from './safetyGate.js'
import { getSchedule, guidanceArgument, timestepArgument, timestepEmbedding } from './schedule.js'
import { type StageClock, type StageSeconds, startStageClock } from './stageClock.js'

export type GenerateHooks = {
  readonly signal: AbortSignal
  /** The plan's LoRAs are merged, after `seconds`; `notes` are sentences about tensors left out. */
  readonly onLorasReady?: (seconds: number, notes: readonly string[]) => void
  readonly onProgress: (progress: StepProgress) => void
  readonly onImage: (index: number, image: EncodedImage) => void
  readonly previews?: PreviewHooks | undefined
  /** Judges the images of plans with `checkSafety`. */
  readonly safety?: SafetyGate | undefined
}

/** `step` of `steps` is done, for image `image` of the prediction. */
export type StepProgress = {
  readonly image: number
  readonly step: number
  readonly steps: number
}

export type PreviewHooks = {
  /** Whether a client subscribes to previews and is due the next one. */
  readonly isDue: () => boolean
  readonly onPreview: (progress: StepProgress, preview: EncodedImage) => void
}

/**
 * Makes the images of a plan one after another and passes each to `onImage` as soon as it is
 * encoded; unsafe ones are never encoded. Returns the seconds spent by stage.
 * Throws when `signal` aborts, and `unsafe_output` when every image is unsafe.
 */
export async function generate(
  plan: GenerationPlan,
  models: Models,
  hooks: GenerateHooks,
): Promise<StageSeconds> {
  const { signal } = hooks
  const { precision, loras, size } = plan
  const gate = chooseGate(plan, hooks.safety)
  const clock = startStageClock(models.busySeconds)
  const set = await clock.time('lora', () => models.loadLoras(precision, loras, signal))
  const prompt = await clock.time('prompt', () => models.encodePrompt(plan.prompt, set, signal))
  const initLatents = await clock.time('start', () =>
    prepareInitLatents(plan.start, size, models.encodeImage, signal),
  )
  // The text encoders and the image encoder may be evicted for the models of the denoising loop.
  const alongside = gate ? [models.decoder, gate.checker] : [models.decoder]
  const runBytes = runBytesOf(models.shapes, size)
  const { model: transformer, release } = await clock.time('lora', () =>
    models.acquireTransformer(precision, set, { alongside, runBytes }),
  )
  try {
    hooks.onLorasReady?.(clock.timings().lora, set.parsed.notes)
    const steps = await clock.time('prompt', () =>
      prepare(plan, { transformer, scheduler: models.scheduler }, prompt, signal),
    )
    const decoder = models.decoder.network()
    const run = { plan, steps, initLatents, decoder, gate, hooks, clock }
    await sampleImages(run).finally(steps.release)
    return clock.timings()
  } finally {
    release()
  }
}

/** What all images of a plan share. */
type Run = {
  readonly plan: GenerationPlan
  readonly steps: PreparedSteps
  readonly initLatents: InitLatents
  readonly decoder: Decoder
  readonly gate: SafetyGate | undefined
  readonly hooks: GenerateHooks
  readonly clock: StageClock
}

async function sampleImages(run: Run): Promise<void> {
  const { plan, gate, hooks, clock } = run
  // One image is encoded while the next one is denoised.
  let encoding: Promise<void> = Promise.resolve()
  let safeImages = 0
  for (let image = 0; image < plan.count; image++) {
    const rgb = await sampleImage(run, image)
    if (!(await clock.time('safety', () => isSafe(gate, rgb, plan.size, image)))) continue
    safeImages++
    await encoding
    encoding = clock
      .time('encode', () => encodeImage(rgb, plan.size, plan.output))
      .then((encoded) => hooks.onImage(image, encoded))
    // Awaited with the next image; a failure until then must not count as unhandled.
    encoding.catch(() => {})
  }
  await encoding
  if (safeImages === 0) throw new FluxdError('unsafe_output', allUnsafe)
}

// The reference's words (C-1.8).
const allUnsafe =
  'All generated images contained NSFW content. Try running it again with a different prompt.'

/** The rgb bytes of image `image`. */
async function sampleImage(run: Run, image: number): Promise<Uint8Array> {
  const { plan, steps, initLatents, decoder, hooks, clock } = run
  const { predict, sigmas } = steps
  const { signal } = hooks
  const { tokenRows, tokenCols } = tokenGrid(plan.size)
  // A number would be rounded beyond 2^53.
  const noise = startNoise(plan.noise, BigInt(plan.seed) + BigInt(image), plan.size)
  const { latents, blend } = initLatents(packLatents(noise, tokenRows, tokenCols), sigmas[0]!)
  const onStep = (step: number, x: Float32Array, velocity: Float32Array) =>
    reportStep(run, { image, step, steps: stepsToRun(plan) }, x, velocity)
  const packed = await clock.time('denoise', () =>
    denoise(predict, latents, sigmas, { blend, signal, onStep }),
  )
  const denoised = unpackLatents(packed, tokenRows, tokenCols)
  return clock.time('decode', () => decoder.decode(denoised, plan.size, signal))
}

/** No preview after the last step, nor of an image that the safety checker has yet to judge. */
async function reportStep(
  { plan, steps, decoder, gate, hooks }: Run,
  progress: StepProgress,
  latents: Float32Array,
  velocity: Float32Array,
): Promise<void> {
  const { previews, signal } = hooks
  hooks.onProgress(progress)
  if (progress.step === progress.steps || gate || !previews?.isDue()) return
  const step = { latents, velocity, sigma: steps.sigmas[progress.step]! }
  previews.onPreview(progress, await makePreview(step, plan.size, decoder, signal))
}

export type PreparedSteps = BoundSteps & { readonly sigmas: readonly number[] }

/**
 * What all images of a plan share: the noise levels from its first step on, and the transformer
 * conditioned on each of them, on the device until it is released.
 */
export async function prepare(
  plan: Pick<GenerationPlan, 'size' | 'steps' | 'firstStep' | 'guidance'>,
  { transformer, scheduler }: Pick<Models, 'scheduler'> & { readonly transformer: Transformer },
  prompt: PromptEmbedding,
  signal?: AbortSignal,
): Promise<PreparedSteps> {
  const { tokenRows, tokenCols } = tokenGrid(plan.size)
  const sigmas = getSchedule(scheduler, plan.steps, tokenRows * tokenCols).slice(plan.firstStep)
  const timesteps = sigmas.slice(0, -1).map((sigma) => timestepEmbedding(timestepArgument(sigma)))
  const guidance = timestepEmbedding(guidanceArgument(plan.guidance))
  const conditioning = await transformer.condition({ prompt, timesteps, guidance }, signal)
  const txtTokens = prompt.hidden.dims[0]!
  const { cos, sin } = ropeTables(txtTokens, tokenRows, tokenCols, transformer.params.axes)
  const dims = [txtTokens + tokenRows * tokenCols, transformer.params.headDim / 2]
  const rope = { cos: floatTensor(cos, dims), sin: floatTensor(sin, dims) }
  return { sigmas, ...(await transformer.bindSteps(conditioning, rope)) }
}
