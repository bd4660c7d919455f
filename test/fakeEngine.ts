/** An engine without a model: real small pictures, real events, and failures on demand. */
import sharp from 'sharp'
import type { Engine, EngineStatus, GenerateOptions } from '../src/engine/engine.js'
import { FluxdError } from '../src/errors.js'
import { mimeTypes } from '../src/media/encoding.js'
import { measureImage } from '../src/media/images.js'
import { type GenerationPlan, stepsToRun } from '../src/plan/plan.js'

export type FakeEngineOptions = {
  /** Thrown by each generation after its first step. */
  readonly failure?: Error
  readonly loadFailure?: Error
  /** Each load waits here. */
  readonly loading?: Promise<void>
  readonly status?: EngineStatus
  /** Each generation waits here after its first step. */
  readonly gate?: Promise<void>
}

export type FakeEngine = Engine & {
  /** What was asked for, in order. */
  readonly plans: readonly GenerationPlan[]
  readonly canceledSeeds: readonly number[]
  readonly stops: () => number
}

export function createFakeEngine(options: FakeEngineOptions = {}): FakeEngine {
  const plans: GenerationPlan[] = []
  const canceledSeeds: number[] = []
  let stops = 0

  async function generate(plan: GenerationPlan, { signal, onEvent }: GenerateOptions = {}) {
    plans.push(plan)
    for (let image = 0; image < plan.count; image++) {
      const steps = stepsToRun(plan)
      for (let step = 1; step <= steps; step++) {
        onEvent?.({ kind: 'progress', id: 'fake', image, step, steps })
        await passGate(plan, signal)
        if (options.failure) throw options.failure
      }
    }
    const timings = {
      load: 0,
      lora: 0,
      prompt: 0,
      start: 0,
      denoise: 0,
      decode: 0,
      encode: 0,
      ort: 0,
      total: 0.25,
    }
    return { images: await Promise.all(drawPictures(plan)), timings }
  }

  async function passGate(plan: GenerationPlan, signal: AbortSignal | undefined) {
    const aborted = new Promise<void>((resolve) => {
      if (signal?.aborted) resolve()
      signal?.addEventListener('abort', () => resolve(), { once: true })
    })
    await Promise.race([options.gate, aborted])
    if (!signal?.aborted) return
    canceledSeeds.push(plan.seed)
    throw new FluxdError('canceled', 'The prediction was canceled')
  }

  return {
    plans,
    canceledSeeds,
    stops: () => stops,
    status: () => options.status ?? 'ready',
    pid: () => undefined,
    load: async () => {
      await options.loading
      if (options.loadFailure) throw options.loadFailure
    },
    measure: measureImage,
    generate,
    release: async () => {},
    stop: async () => void stops++,
  }
}

const drawPictures = ({ count, output }: GenerationPlan) =>
  Array.from({ length: count }, async () => {
    const create = { width: 32, height: 16, channels: 3, background: 'red' } as const
    const format = output.format === 'jpg' ? 'jpeg' : output.format
    const bytes = await sharp({ create }).toFormat(format).toBuffer()
    return { bytes, mimeType: mimeTypes[output.format] }
  })
