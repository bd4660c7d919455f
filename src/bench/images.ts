/** Seconds of whole images, of their stages, and of a step. */

import type { GenerationTimings } from '../engine/protocol.js'
import { type GenerationPlan, stepsToRun } from '../plan/plan.js'
import type { Engine } from '../worker/engine/client.js'
import { requestOf } from './cases.js'
import { medianOf, round, type Spread, spreadOf } from './statistics.js'

/** Seconds, except for the share; stages are medians. */
export type ImageSeconds = {
  readonly picture: Spread
  readonly step: Spread
  readonly stages: Readonly<Record<'prompt' | 'denoise' | 'decode' | 'encode', number>>
  /** The share of an image's time that is not spent inside ONNX Runtime. */
  readonly outsideOrt: number
}

export type Measuring = {
  readonly engine: Pick<Engine, 'generate' | 'prefetch'>
  readonly signal?: AbortSignal | undefined
}

/** Makes a plan's image `repeats` times, after a step that warms everything up. */
export async function measureImages(
  planOf: (round: number) => GenerationPlan,
  repeats: number,
  { engine, signal }: Measuring,
): Promise<ImageSeconds> {
  const options = { ...(signal && { signal }) }
  const warmUp = planOf(0)
  await engine.generate(requestOf({ ...warmUp, steps: warmUp.firstStep + 1 }), options)
  const timings: GenerationTimings[] = []
  for (let i = 1; i <= repeats; i++)
    timings.push((await engine.generate(requestOf(planOf(i)), options)).timings)
  return summarise(timings, stepsToRun(warmUp))
}

function summarise(timings: readonly GenerationTimings[], steps: number): ImageSeconds {
  const middle = (stage: keyof GenerationTimings) => round(medianOf(timings.map((t) => t[stage])))
  return {
    picture: rounded(spreadOf(timings.map(({ total }) => total))),
    step: rounded(spreadOf(timings.map(({ denoise }) => denoise / steps))),
    stages: {
      prompt: middle('prompt'),
      denoise: middle('denoise'),
      decode: middle('decode'),
      encode: middle('encode'),
    },
    outsideOrt: round(medianOf(timings.map(({ total, ort }) => 1 - ort / total))),
  }
}

export const rounded = ({ median, low, high }: Spread): Spread => ({
  median: round(median),
  low: round(low),
  high: round(high),
})
