/**
 * Noise levels (sigmas, 1 = pure noise) of the steps, and the transformer's inputs for level and
 * guidance: u = 1000·value, embedded as a sinusoid.
 */
import { type SchedulerParams, sinusoidDim } from '../flux/params.js'

/**
 * Noise levels from 1 to 0, one more than `steps`, shifted towards high noise.
 * `tokens` is (width/16)·(height/16), text not counted; it is not clamped to the scheduler's range.
 * Source: diffusers FluxPipeline (calculate_shift) and FlowMatchEulerDiscreteScheduler
 * (set_timesteps, time_shift), with its float32 at every operation: the levels are bit-equal.
 */
export function getSchedule(scheduler: SchedulerParams, steps: number, tokens: number): number[] {
  const shift = scheduler.useDynamicShifting
    ? dynamicShift(shiftExponent(scheduler, tokens))
    : staticShift(scheduler.shift)
  return [...Array.from({ length: steps }, (_, i) => shift(f32(1 - i / steps))), 0]
}

const f32 = Math.fround

/** sigma → e^mu / (e^mu + 1/sigma − 1) */
function dynamicShift(mu: number) {
  const factor = f32(Math.exp(mu))
  return (sigma: number) => f32(factor / f32(factor + f32(f32(1 / sigma) - 1)))
}

/** sigma → shift·sigma / (1 + (shift − 1)·sigma) */
const staticShift = (shift: number) => (sigma: number) =>
  f32(f32(shift * sigma) / f32(1 + f32(f32(shift - 1) * sigma)))

/** mu, linear in the tokens: (baseImageSeqLen, baseShift) to (maxImageSeqLen, maxShift). */
function shiftExponent(scheduler: SchedulerParams, tokens: number): number {
  const { baseShift, maxShift, baseImageSeqLen, maxImageSeqLen } = scheduler
  const slope = (maxShift - baseShift) / (maxImageSeqLen - baseImageSeqLen)
  return baseShift + slope * (tokens - baseImageSeqLen)
}

/** u of a noise level: 1000·sigma in float32, as the embedding is computed in float32, too. */
export const timestepArgument = (sigma: number): number => f32(1000 * sigma)

/** u of a guidance. */
export const guidanceArgument = (guidance: number): number => f32(1000 * f32(guidance))

/**
 * [cos(u·f_0) … cos(u·f_127), sin(u·f_0) … sin(u·f_127)], f_j = 10000^(−j/128); angles in float64.
 * Source: diffusers get_timestep_embedding with flip_sin_to_cos and downscale_freq_shift 0.
 */
export function timestepEmbedding(u: number): Float32Array {
  const half = sinusoidDim / 2
  const embedding = new Float32Array(sinusoidDim)
  for (let j = 0; j < half; j++) {
    const angle = u * Math.exp((-Math.log(10000) * j) / half)
    embedding[j] = Math.cos(angle)
    embedding[half + j] = Math.sin(angle)
  }
  return embedding
}
