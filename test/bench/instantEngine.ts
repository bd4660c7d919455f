/** Engines that take no time, so that what is measured is the server: one answers at once, one never. */
import { randomBytes } from 'node:crypto'
import { mimeTypes } from '../../src/engine/images/encode.js'
import type { GenerateRequest, GenerationTimings } from '../../src/engine/protocol.js'
import { FluxdError } from '../../src/errors.js'
import { stepsToRun } from '../../src/plan/plan.js'
import type { Engine, GenerateOptions } from '../../src/worker/engine/client.js'

/** `instant` makes pictures in no time, `still` is at its first one for ever. */
export const engineKinds = ['instant', 'still'] as const
export type EngineKind = (typeof engineKinds)[number]

// What a picture of 1024² takes as webp of quality 80.
const pictureBytes = 100_000

const timings: GenerationTimings = {
  load: 0,
  lora: 0,
  prompt: 0,
  start: 0,
  denoise: 0.001,
  decode: 0,
  safety: 0,
  encode: 0,
  ort: 0,
  total: 0.001,
}

/** An engine without a process: the events of a real one, and bytes that are no picture. */
export function createInstantEngine(kind: EngineKind): Engine {
  const bytes = randomBytes(pictureBytes)

  async function generate(
    { draft }: GenerateRequest,
    { signal, onEvent, onStart }: GenerateOptions = {},
  ) {
    await onStart?.()
    if (kind === 'still') await untilAborted(signal)
    const id = 'instant'
    const mimeType = mimeTypes[draft.output.format]
    const images = Array.from({ length: draft.count }, (_, index) => ({ index, bytes, mimeType }))
    onEvent?.({ kind: 'planned', id, size: draft.size })
    onEvent?.({ kind: 'lorasReady', id, seconds: 0, notes: [] })
    const steps = stepsToRun(draft)
    for (const image of images) {
      for (let step = 1; step <= steps; step++)
        onEvent?.({ kind: 'progress', id, image: image.index, step, steps })
      onEvent?.({ kind: 'image', id, ...image })
    }
    onEvent?.({ kind: 'done', id, timings })
    return { images, timings }
  }

  return {
    status: () => 'ready',
    pid: () => undefined,
    load: async () => {},
    assertFits: () => {},
    generate,
    prefetch: () => {},
    release: async () => {},
    stop: async () => {},
  }
}

const untilAborted = (signal: AbortSignal | undefined) =>
  new Promise<never>((_, reject) => {
    const cancel = () => reject(new FluxdError('canceled', 'The prediction was canceled'))
    if (signal?.aborted) cancel()
    else signal?.addEventListener('abort', cancel, { once: true })
  })
