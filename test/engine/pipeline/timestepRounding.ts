/**
 * The arguments of the sinusoids as each reference rounds them: not at all (float32, as fluxd), or
 * in bfloat16 as diffusers and BFL do when they run in bfloat16. 3500 becomes 3504 there.
 */
import { guidanceArgument, timestepArgument } from '../../../src/engine/pipeline/schedule.js'

export const timestepRoundings = ['none', 'diffusers', 'bfl'] as const
export type TimestepRounding = (typeof timestepRoundings)[number]

/** u of a noise level. diffusers rounds 1000·sigma first, BFL sigma. */
export function roundedTimestep(sigma: number, rounding: TimestepRounding): number {
  switch (rounding) {
    case 'none':
      return timestepArgument(sigma)
    case 'diffusers':
      return bfloat16(bfloat16(bfloat16(1000 * sigma) / 1000) * 1000)
    case 'bfl':
      return bfloat16(bfloat16(sigma) * 1000)
    default:
      return rounding satisfies never
  }
}

/** u of a guidance; both references round it alike. */
export const roundedGuidance = (guidance: number, rounding: TimestepRounding): number =>
  rounding === 'none' ? guidanceArgument(guidance) : bfloat16(bfloat16(guidance) * 1000)

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The nearest bfloat16 of a finite number, ties to even: the upper half of the float32. */
function bfloat16(value: number): number {
  float[0] = value
  const pattern = bits[0]!
  bits[0] = (pattern + 0x7fff + ((pattern >>> 16) & 1)) & 0xffff0000
  return float[0]!
}
