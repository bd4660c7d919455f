import { describe, expect, test } from 'vitest'
import type { SchedulerParams } from '../../../src/engine/flux/params.js'
import { getSchedule, timestepEmbedding } from '../../../src/engine/pipeline/schedule.js'
import { expectClose, readFixtureJson } from '../../goldens.js'
import { roundedGuidance, roundedTimestep, timestepRoundings } from './timestepRounding.js'

type Golden = {
  atol: number
  schedules: {
    model: 'tiny-dev' | 'tiny-schnell'
    steps: number
    width: number
    height: number
    image_seq_len: number
    sigmas: number[]
    sinusoid_argument: Record<(typeof timestepRoundings)[number], number[]>
  }[]
  guidance_rounding: { guidance: number; u_bf16: number }[]
}

const golden: Golden = readFixtureJson('cases/sigmas.json')

const dev: SchedulerParams = {
  useDynamicShifting: true,
  shift: 3,
  baseShift: 0.5,
  maxShift: 1.15,
  baseImageSeqLen: 256,
  maxImageSeqLen: 4096,
}
const configs = {
  'tiny-dev': dev,
  'tiny-schnell': { ...dev, useDynamicShifting: false, shift: 1 },
}

describe.each(golden.schedules)('$model, $steps steps at $width×$height', (want) => {
  const sigmas = getSchedule(configs[want.model], want.steps, want.image_seq_len)

  test('sigmas equal the reference and end in 0', () => {
    expectClose(sigmas, want.sigmas, golden.atol)
    expect(sigmas.at(-1)).toBe(0)
  })

  test.each(timestepRoundings)('sinusoid arguments rounded as %s', (rounding) => {
    const u = sigmas.slice(0, -1).map((sigma) => roundedTimestep(sigma, rounding))
    expectClose(u, want.sinusoid_argument[rounding], golden.atol)
  })
})

test('a static shift moves the levels by shift·s / (1 + (shift − 1)·s)', () => {
  const sigmas = getSchedule({ ...dev, useDynamicShifting: false }, 4, 4096)
  expectClose(sigmas, [1, 0.9, 0.75, 0.5, 0], 1e-7)
})

test.each(golden.guidance_rounding)('guidance $guidance in bfloat16 is $u_bf16', (want) => {
  expect(roundedGuidance(want.guidance, 'diffusers')).toBe(want.u_bf16)
  expect(roundedGuidance(want.guidance, 'bfl')).toBe(want.u_bf16)
  expect(roundedGuidance(want.guidance, 'none')).toBe(1000 * want.guidance)
})

// Check values of diffusers' get_timestep_embedding in float32.
test('the sinusoid has its cosines first', () => {
  const embedding = timestepEmbedding(1000)
  const at = (...indices: number[]) => indices.map((i) => embedding[i]!)
  expectClose(at(0, 1, 2, 3, 127), [0.562379, 0.789615, 0.439954, -0.02367, 0.994232], 1e-5)
  expectClose(at(128, 129, 130, 131, 255), [0.82688, 0.613603, -0.89802, 0.99972, 0.107254], 1e-5)
})
