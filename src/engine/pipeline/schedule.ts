/**
 * Noise levels (sigmas, 1 = pure noise) of the steps, and the numbers by which the transformer is
 * told level and guidance: u = 1000·value, embedded as a sinusoid.
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

/** mu: linear in the tokens, through (baseImageSeqLen, baseShift) and (maxImageSeqLen, maxShift). */
function shiftExponent(scheduler: SchedulerParams, tokens: number): number {
  const { baseShift, maxShift, baseImageSeqLen, maxImageSeqLen } = scheduler
  const slope = (maxShift - baseShift) / (maxImageSeqLen - baseImageSeqLen)
  return baseShift + slope * (tokens - baseImageSeqLen)
}

/**
 * How u is rounded on its way into the sinusoid: not at all (float32), or in bfloat16 as the
 * references do when they run in bfloat16. 3500 becomes 3504, which is another embedding.
 */
export const timestepRoundings = ['none', 'diffusers', 'bfl'] as const
export type TimestepRounding = (typeof timestepRoundings)[number]

/** u of a noise level. diffusers rounds 1000·sigma first, BFL sigma. */
export function timestepArgument(sigma: number, rounding: TimestepRounding): number {
  switch (rounding) {
    case 'none':
      return f32(1000 * sigma)
    case 'diffusers':
      return bfloat16(bfloat16(bfloat16(1000 * sigma) / 1000) * 1000)
    case 'bfl':
      return bfloat16(bfloat16(sigma) * 1000)
    default:
      return rounding satisfies never
  }
}

/** u of a guidance; both references round it alike. */
export const guidanceArgument = (guidance: number, rounding: TimestepRounding): number =>
  rounding === 'none' ? f32(1000 * f32(guidance)) : bfloat16(bfloat16(guidance) * 1000)

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

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The nearest bfloat16 of a finite number, ties to even: the upper half of the float32. */
function bfloat16(value: number): number {
  float[0] = value
  const pattern = bits[0]!
  bits[0] = (pattern + 0x7fff + ((pattern >>> 16) & 1)) & 0xffff0000
  return float[0]!
}
