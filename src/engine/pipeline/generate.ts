/** The story of one prediction: prompt and seed in, encoded pictures out. */
import { FluxdError } from '../../errors.js'
import { type GenerationPlan, stepsToRun } from '../../plan/plan.js'
import { floatTensor } from '../../safetensors/tensor.js'
import { encodeImage } from '../images/encode.js'
import { drawBytes } from '../models/memoryEstimate.js'
import type { Models } from '../models/models.js'
import type { PlacedSteps, PromptEmbedding, Transformer } from '../models/transformer.js'
import type { Decoder } from '../models/vaeDecoder.js'
import type { EncodedImage } from '../protocol.js'
import { denoise } from './denoise.js'
import { type MakeStart, prepareStart } from './initLatents.js'
import { packLatents, ropeTables, tokenGrid, unpackLatents } from './latents.js'
import { makePreview } from './preview.js'
import { startNoise } from './rng/randn.js'
import { chooseGate, isSafe, type SafetyGate } from './safetyGate.js'
import { getSchedule, guidanceArgument, timestepArgument, timestepEmbedding } from './schedule.js'

export type GenerateHooks = {
  readonly signal: AbortSignal
  /** The plan's LoRAs are in place, after so many seconds, without what `notes` tells of them. */
  readonly onLorasReady?: (seconds: number, notes: readonly string[]) => void
  readonly onProgress: (progress: { image: number; step: number; steps: number }) => void
  readonly onImage: (index: number, image: EncodedImage) => void
  readonly previews?: PreviewHooks | undefined
  /** Judges pictures of plans that want it. */
  readonly safety?: SafetyGate | undefined
}

export type PreviewHooks = {
  /** Whether somebody wants to see one now. */
  readonly isDue: () => boolean
  readonly onPreview: (
    progress: { image: number; step: number; steps: number },
    preview: EncodedImage,
  ) => void
}

// The sinusoids are float32 in every dialect, so nothing rounds on its way into them.
const rounding = 'none'

type Stage = 'lora' | 'prompt' | 'start' | 'denoise' | 'decode' | 'safety' | 'encode'

/**
 * Seconds by stage; `lora` is switching to the plan's set of LoRAs, `start` is reading and encoding
 * an image, and writing files (`encode`) overlaps with what follows it. `ort`: inside ONNX Runtime.
 */
export type StageSeconds = Readonly<Record<Stage | 'total' | 'ort', number>>

/**
 * Makes the pictures of a plan one after another and hands each over as soon as it is encoded;
 * unsafe ones are never encoded. Returns the seconds spent by stage.
 * Throws when `signal` aborts, and `unsafe_output` when no picture is left.
 */
export async function generate(
  plan: GenerationPlan,
  models: Models,
  hooks: GenerateHooks,
): Promise<StageSeconds> {
  const { signal } = hooks
  const gate = chooseGate(plan, hooks.safety)
  const clock = startClock(models)
  const adapted = await clock.time('lora', () => models.adapters.select(plan.precision, plan.loras))
  const prompt = await clock.time('prompt', () => adapted.prompt.encode(plan.prompt, { signal }))
  const makeStart = await clock.time('start', () =>
    prepareStart(plan.start, plan.size, models.encode, signal),
  )
  // Text encoders and the image's encoder may have to make room for what draws.
  const others = [models.decoder, ...(gate ? [gate.checker] : [])]
  const { transformer, leave } = await clock.time('lora', () =>
    adapted.enter({ others, runBytes: drawBytes(models.shapes, plan.size) }),
  )
  try {
    hooks.onLorasReady?.(clock.timings().lora, adapted.notes)
    const { scheduler } = models
    const decoder = models.decoder.network()
    const prepared = await clock.time('prompt', () =>
      prepare(plan, { transformer, scheduler }, prompt, signal),
    )
    try {
      await draw(plan, { ...prepared, makeStart, decoder, gate }, hooks, clock)
    } finally {
      await prepared.release()
    }
    return clock.timings()
  } finally {
    leave()
  }
}

type Prepared = Awaited<ReturnType<typeof prepare>> & {
  readonly makeStart: MakeStart
  readonly decoder: Decoder
  readonly gate: SafetyGate | undefined
}

async function draw(
  plan: GenerationPlan,
  { predict, sigmas, makeStart, decoder, gate }: Prepared,
  { signal, onProgress, onImage, previews }: GenerateHooks,
  clock: Clock,
): Promise<void> {
  const { tokenRows, tokenCols } = tokenGrid(plan.size)
  // The last picture is still being encoded while the next one is denoised.
  let encoding: Promise<void> = Promise.resolve()
  let safeImages = 0
  for (let image = 0; image < plan.count; image++) {
    const noise = startNoise(plan.noise, plan.seed + image, plan.size)
    const start = makeStart(packLatents(noise, tokenRows, tokenCols), sigmas[0]!)
    const onStep = async (step: number, latents: Float32Array, velocity: Float32Array) => {
      const progress = { image, step, steps: stepsToRun(plan) }
      onProgress(progress)
      // After the last step comes the picture itself, and what is to be judged is not shown before.
      if (step === progress.steps || gate || !previews?.isDue()) return
      const preview = { latents, velocity, sigma: sigmas[step]! }
      previews.onPreview(progress, await makePreview(preview, plan.size, decoder, signal))
    }
    const packed = await clock.time('denoise', () =>
      denoise(predict, start.latents, sigmas, { blend: start.blend, signal, onStep }),
    )
    const latents = unpackLatents(packed, tokenRows, tokenCols)
    const rgb = await clock.time('decode', () => decoder.decode(latents, plan.size, signal))
    if (!(await clock.time('safety', () => isSafe(gate, rgb, plan.size, image)))) continue
    safeImages++
    await encoding
    encoding = clock
      .time('encode', () => encodeImage(rgb, plan.size, plan.output))
      .then((encoded) => onImage(image, encoded))
    // Awaited with the next picture; a failure until then must not count as unhandled.
    encoding.catch(() => {})
  }
  await encoding
  if (safeImages === 0) throw new FluxdError('unsafe_output', nothingLeft)
}

// The reference's words (C-1.8).
const nothingLeft =
  'All generated images contained NSFW content. Try running it again with a different prompt.'

/**
 * What all pictures of a plan share: the noise levels from its first step on, and the velocity at
 * each, until it is released.
 */
export async function prepare(
  {
    size,
    steps,
    firstStep,
    guidance,
  }: Pick<GenerationPlan, 'size' | 'steps' | 'firstStep' | 'guidance'>,
  { transformer, scheduler }: Pick<Models, 'scheduler'> & { readonly transformer: Transformer },
  prompt: PromptEmbedding,
  signal?: AbortSignal,
): Promise<PlacedSteps & { readonly sigmas: readonly number[] }> {
  const { tokenRows, tokenCols } = tokenGrid(size)
  const sigmas = getSchedule(scheduler, steps, tokenRows * tokenCols).slice(firstStep)
  const input = {
    prompt,
    timesteps: sigmas
      .slice(0, -1)
      .map((sigma) => timestepEmbedding(timestepArgument(sigma, rounding))),
    guidance: timestepEmbedding(guidanceArgument(guidance, rounding)),
  }
  const conditioning = await transformer.condition(input, signal)
  const txtTokens = prompt.hidden.dims[0]!
  const { cos, sin } = ropeTables(txtTokens, tokenRows, tokenCols, transformer.params.axes)
  const dims = [txtTokens + tokenRows * tokenCols, transformer.params.headDim / 2]
  const rope = { cos: floatTensor(cos, dims), sin: floatTensor(sin, dims) }
  return { sigmas, ...(await transformer.placeSteps(conditioning, rope)) }
}

type Clock = ReturnType<typeof startClock>

function startClock({ busySeconds }: Models) {
  const startedAt = performance.now()
  const ortAtStart = busySeconds()
  const seconds: Record<Stage, number> = {
    lora: 0,
    prompt: 0,
    start: 0,
    denoise: 0,
    decode: 0,
    safety: 0,
    encode: 0,
  }
  return {
    async time<T>(stage: Stage, work: () => Promise<T>): Promise<T> {
      const stageStart = performance.now()
      try {
        return await work()
      } finally {
        seconds[stage] += (performance.now() - stageStart) / 1000
      }
    },
    timings: () => ({
      ...seconds,
      total: (performance.now() - startedAt) / 1000,
      ort: busySeconds() - ortAtStart,
    }),
  }
}
