import { describe, expect, test } from 'vitest'
import { philoxNormal } from '../../../../src/engine/pipeline/rng/philox.js'
import { randn, startNoise } from '../../../../src/engine/pipeline/rng/randn.js'
import { expectClose, goldenCase } from '../../../goldens.js'

const golden = goldenCase('rng_torch_cpu_f32')
const count1024 = 262_144

describe('torch CPU noise', () => {
  test.each(Object.entries(golden.outputs))('%s equals torch', (name, want) => {
    const [, seed, count, part] = name.match(/^seed(\d+)_n(\d+)_?(.*)$/)!
    const values = randn('torch-cpu', Number(count), Number(seed))
    expectClose(select(values, part!), want.data, want.atol!, name)
  })

  test.each(Object.entries<Record<string, number>>(golden.params['stats_n262144']))(
    '%s has the sums of torch',
    (name, want) => {
      const values = randn('torch-cpu', count1024, Number(name.match(/\d+/)![0]))
      const got = statistics(values)
      for (const [key, tolerance] of Object.entries<number>(golden.params['stats_tolerance']))
        expectClose([got[key as keyof typeof got]], [want[key]!], tolerance, key)
      expect(values[want['argmin']!]).toBe(got.min)
      expect(values[want['argmax']!]).toBe(got.max)
    },
  )

  // From torch 2.13: torch.randn(16 or 3, generator=torch.Generator('cpu').manual_seed(seed)).
  test.each([
    [-1, 16, [-2.664297580718994, -1.0910485982894897, 0.45144742727279663, 0.22836069762706757]],
    [-1, 3, [1.2197630405426025, -0.3929794728755951, 1.0230751037597656]],
    [2 ** 33 + 7, 16, [-0.8201345205307007, 0.39563116431236267, 0.8989084959030151]],
    [-(2 ** 40) - 3, 16, [-0.31222230195999146, -0.49657878279685974, 0.11182309687137604]],
    [-(2 ** 40) - 3, 3, [0.5177019238471985, -0.003518524579703808, -1.547630786895752]],
  ])('seed %d takes its low 32 bits, %d values', (seed, count, want) => {
    expectClose(randn('torch-cpu', count, seed).subarray(0, want.length), want, 4e-6)
  })
})

describe('torch CUDA noise', () => {
  // torch.randn(8, device='cuda') as users of torch publish it.
  test.each([
    [0, [-0.9246626, -0.4253441, -2.6438458, 0.1451839, -0.1208665, -0.5797256, -0.6228512]],
    [42, [0.194019, 2.1613739, -0.1720508, 0.8490602, -1.9243991, 0.6529853, -0.649441]],
  ])('seed %d equals torch', (seed, want) => {
    expectClose(philoxNormal(count1024, seed).subarray(0, want.length), want, 2e-6)
    expectClose(philoxNormal(want.length, seed), want, 2e-6)
  })

  // As above, computed with integers of any size from the published definition of Philox4x32-10.
  test.each([0, 42, -1, 2 ** 32, 2 ** 53 - 1, -(2 ** 40) - 3])(
    'seed %d agrees with a plain Philox at every part of the grid',
    (seed) => {
      const threads = 256 * 2
      const values = philoxNormal(5 * threads + 77, seed, 2)
      for (const at of [0, 1, 255, 511, 512, 1023, 1024, 1535, 2047, 2048, 2559, 2636])
        expectClose([values[at]!], [plainPhilox(seed, at, threads)], 1e-6, `value ${at}`)
    },
  )

  test('values are standard normal', () => {
    const { sum, sum_sq } = statistics(philoxNormal(count1024, 7))
    expect(Math.abs(sum / count1024)).toBeLessThan(0.01)
    expect(Math.abs(sum_sq / count1024 - 1)).toBeLessThan(0.01)
  })

  test('a value depends on the seed alone up to 270,336 values', () => {
    const small = philoxNormal(1000, 3)
    expect(philoxNormal(270_336, 3).subarray(0, 1000)).toEqual(small)
  })
})

test.each(['torch-cuda', 'torch-cpu'] as const)('%s: seeds beyond 2^53 are exact', (source) => {
  const largest = BigInt(Number.MAX_SAFE_INTEGER)
  const noises = [0n, 1n, 2n, 3n].map((image) => randn(source, 32, largest + image))
  expect(new Set(noises.map((noise) => noise.join())).size).toBe(4)
  expect(noises[0]).toEqual(randn(source, 32, Number.MAX_SAFE_INTEGER))
  expect(randn(source, 32, -1n)).toEqual(randn(source, 32, -1))
  expect(randn(source, 32, 2n ** 64n - 1n)).toEqual(randn(source, 32, -1))
})

test('noise of an image has 16 values per 8×8 pixels', () => {
  expect(startNoise('torch-cuda', 0, { width: 1344, height: 768 })).toHaveLength(16 * 168 * 96)
})

test.each(['t2i_dev', 't2i_dev_prompt2', 't2i_schnell'])(
  'noise of %s is what the reference pipeline drew',
  (id) => {
    const { params, inputs } = goldenCase(id)
    const size = { width: params['width'], height: params['height'] }
    expectClose(startNoise('torch-cpu', params['seed'], size), inputs['noise']!.data, 4e-6)
  },
)

function select(values: Float32Array, part: string): Float32Array {
  if (part === 'first64') return values.subarray(0, 64)
  if (part === 'last64') return values.subarray(-64)
  if (part === 'every4096') return values.filter((_, i) => i % 4096 === 0)
  return values
}

function statistics(values: Float32Array) {
  let sum = 0
  let sum_sq = 0
  let sum_abs = 0
  let weighted_sum = 0
  for (const [i, value] of values.entries()) {
    sum += value
    sum_sq += value * value
    sum_abs += Math.abs(value)
    weighted_sum += (value * (i + 1)) / values.length
  }
  const min = values.reduce((a, b) => Math.min(a, b))
  const max = values.reduce((a, b) => Math.max(a, b))
  return { sum, sum_sq, sum_abs, weighted_sum, min, max }
}

function plainPhilox(seed: number, at: number, threads: number): number {
  const mask = 0xffffffffn
  const part = Math.floor(at / threads)
  const key = BigInt.asUintN(64, BigInt(seed))
  let [k0, k1] = [key & mask, key >> 32n]
  let c = [BigInt(part >> 2), 0n, BigInt(at % threads), 0n] as [bigint, bigint, bigint, bigint]
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c[0]
    const p1 = 0xcd9e8d57n * c[2]
    c = [(p1 >> 32n) ^ c[1] ^ k0, p1 & mask, (p0 >> 32n) ^ c[3] ^ k1, p0 & mask]
    k0 = (k0 + 0x9e3779b9n) & mask
    k1 = (k1 + 0xbb67ae85n) & mask
  }
  const [x, y] = part % 4 < 2 ? [c[0], c[1]] : [c[2], c[3]]
  const radius = Math.sqrt(-2 * Math.log((Number(x) + 0.5) * 2 ** -32))
  const angle = (Number(y) + 0.5) * 2 * Math.PI * 2 ** -32
  return radius * (part % 2 === 0 ? Math.sin(angle) : Math.cos(angle))
}
