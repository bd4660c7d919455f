/** An engine without a model: real small pictures, real events, and failures on demand. */
import sharp from 'sharp'
import { measureImage } from '../src/engine/images/decode.js'
import { mimeTypes } from '../src/engine/images/encode.js'
import type { GenerateRequest } from '../src/engine/protocol.js'
import { FluxdError } from '../src/errors.js'
import { type GenerationPlan, stepsToRun, type WeightsPlan } from '../src/plan/plan.js'
import { finishPlan, planWeights } from '../src/plan/planGeneration.js'
import type { Engine, EngineStatus, GenerateOptions } from '../src/worker/engine/client.js'

export type FakeEngineOptions = {
  /** Thrown by each generation after its first step. */
  readonly failure?: Error
  /** Thrown by the first generations, one each. */
  readonly failures?: readonly Error[]
  readonly loadFailure?: Error
  /** Each load waits here. */
  readonly loading?: Promise<void>
  readonly status?: EngineStatus
  /** Each generation waits here before the engine takes it up. */
  readonly ready?: Promise<void>
  /** Each generation waits here after its first step. */
  readonly gate?: Promise<void>
}

export type FakeEngine = Engine & {
  /** What was asked for, in order. */
  readonly plans: readonly GenerationPlan[]
  readonly requests: readonly GenerateRequest[]
  readonly prefetched: readonly WeightsPlan[]
  readonly canceledSeeds: readonly number[]
  readonly stops: () => number
}

export function createFakeEngine(options: FakeEngineOptions = {}): FakeEngine {
  const plans: GenerationPlan[] = []
  const requests: GenerateRequest[] = []
  const prefetched: WeightsPlan[] = []
  const canceledSeeds: number[] = []
  let stops = 0

  async function generate(
    request: GenerateRequest,
    { signal, onEvent, onStart }: GenerateOptions = {},
  ) {
    const { draft, image: bytes, mask, loras } = request
    await passGate(options.ready, draft.seed, signal)
    await onStart?.()
    requests.push(request)
    const id = 'fake'
    const start = bytes && { bytes, size: await measureImage(bytes) }
    const plan = finishPlan(draft, { image: start, mask, loras })
    plans.push(plan)
    onEvent?.({ kind: 'planned', id, size: plan.size, imageSize: start?.size })
    onEvent?.({ kind: 'lorasReady', id, seconds: 0.25, notes: [] })
    const images = await Promise.all(drawPictures(plan))
    for (let image = 0; image < plan.count; image++) {
      const steps = stepsToRun(plan)
      for (let step = 1; step <= steps; step++) {
        onEvent?.({ kind: 'progress', id, image, step, steps })
        await passGate(options.gate, plan.seed, signal)
        const failure = options.failure ?? options.failures?.[plans.length - 1]
        if (failure) throw failure
      }
      onEvent?.({ kind: 'image', id, ...images[image]! })
    }
    const timings = {
      load: 0,
      lora: 0.25,
      prompt: 0,
      start: 0,
      denoise: 0,
      decode: 0,
      safety: 0,
      encode: 0,
      ort: 0,
      total: 0.25,
    }
    onEvent?.({ kind: 'done', id, timings })
    return { images, timings }
  }

  async function passGate(
    gate: Promise<void> | undefined,
    seed: number,
    signal: AbortSignal | undefined,
  ) {
    const passed = new AbortController()
    const aborted = new Promise<void>((resolve) => {
      if (signal?.aborted) resolve()
      signal?.addEventListener('abort', () => resolve(), { signal: passed.signal })
    })
    await Promise.race([gate, aborted])
    passed.abort()
    if (!signal?.aborted) return
    canceledSeeds.push(seed)
    throw new FluxdError('canceled', 'The prediction was canceled')
  }

  return {
    plans,
    requests,
    prefetched,
    canceledSeeds,
    stops: () => stops,
    status: () => options.status ?? 'ready',
    pid: () => undefined,
    load: async () => {
      await options.loading
      if (options.loadFailure) throw options.loadFailure
    },
    generate,
    assertFits: () => {},
    prefetch: (draft, loras) => void prefetched.push(planWeights(draft, loras)),
    release: async () => {},
    stop: async () => void stops++,
  }
}

const drawPictures = ({ count, output }: GenerationPlan) =>
  Array.from({ length: count }, async (_, index) => {
    const create = { width: 32, height: 16, channels: 3, background: 'red' } as const
    const format = output.format === 'jpg' ? 'jpeg' : output.format
    const bytes = await sharp({ create }).toFormat(format).toBuffer()
    return { index, bytes, mimeType: mimeTypes[output.format] }
  })
