/**
 * The totals are Flux.1's at its published dimensions: per step 57·24·D²·S operations in products
 * with weights and 57·4·D·S² in attention; diffusers' own benchmark counts 59.53e12 of the former
 * for dev at 1024×1024.
 */
import { describe, expect, test } from 'vitest'
import { type BenchCase, listCases, nameCase, planOf } from '../../src/bench/cases.js'
import { ratioOf, valueBytes } from '../../src/bench/ratio.js'
import { medianOf, round, spreadOf } from '../../src/bench/statistics.js'
import { imageTokens, stepWork } from '../../src/bench/work.js'
import { fullSizes } from './randomWeights.js'

const params = { ...fullSizes.flux, guidance: true }
const size = (width: number, height: number) => ({ width, height })

describe('the work of a step', () => {
  test.each([
    ['dev at 1024×1024', 512, size(1024, 1024), 59.49, 14.87],
    ['schnell at 1024×1024', 256, size(1024, 1024), 56.18, 13.27],
    ['dev at 1344×768', 512, size(1344, 768), 58.66, 14.46],
    ['dev at 512×512', 512, size(512, 512), 19.83, 1.65],
    ['schnell at 512×512', 256, size(512, 512), 16.52, 1.15],
    ['dev at 2048×2048', 512, size(2048, 2048), 218.1, 200.0],
  ])('is that of the published network for %s', (_, textTokens, pixels, linear, attention) => {
    const work = stepWork(params, textTokens, pixels)
    // The totals have four digits, and leave out the layers at both ends: 0.02 %.
    expect(work.linear / 1e12 / linear).toBeCloseTo(1, 3)
    expect(work.attention / 1e12 / attention).toBeCloseTo(1, 2)
    // 8.61 GB in fp8 (F-1.8: block linears alone).
    expect(work.weights / 1e9).toBeCloseTo(8.61, 2)
  })

  test('counts what a small network moves, by hand', () => {
    const tiny = {
      ...params,
      heads: 1,
      headDim: 2,
      doubleBlocks: 1,
      singleBlocks: 1,
      inChannels: 3,
    }
    // D 2, M 8: a block has 4·4 + 2·16 = 48 weights for each token; 5 tokens, 4 of them image.
    expect(stepWork(tiny, 1, size(32, 32))).toEqual({
      linear: 2 * (2 * 48 * 5 + 2 * 3 * 2 * 4),
      attention: 4 * 2 * 2 * 25,
      weights: 3 * 48 + 2 * 3 * 2,
      values: 2 * 5 * (12 * 2 + 2 * 8),
    })
  })

  test('grows with the picture', () => {
    expect(imageTokens(size(1024, 768))).toBe(64 * 48)
  })
})

describe('the ratio of a step', () => {
  const work = { linear: 600, attention: 100, weights: 40, values: 10 }
  const ceilings = { products: { bf16: 100, fp8: 200 }, copies: 50 }

  test.each([
    // 700 / 100 of computing, 240 or 100 bytes / 50 of moving.
    ['cpu', 'bf16', { ceilingSeconds: 7, limit: 'products', share: 0.7, intensity: 3.5 }],
    ['gpu', 'bf16', { ceilingSeconds: 7, limit: 'products', share: 0.7, intensity: 7 }],
    // 600 / 200 + 100 / 100, and 60 bytes: attention stays in bf16.
    ['gpu', 'fp8', { ceilingSeconds: 4, limit: 'products', share: 0.4, intensity: 11.67 }],
  ] as const)('on a %s in %s', (device, precision, expected) => {
    const bytes = device === 'cpu' ? { ...valueBytes.cpu, value: 4 } : valueBytes.gpu
    const ratio = ratioOf(work, precision, 10, ceilings, bytes)
    expect(ratio).toMatchObject({ operations: 700, operationsPerSecond: 70, ...expected })
  })

  test('is that of the copies where they take longer', () => {
    const slow = { ...ceilings, copies: 10 }
    const ratio = ratioOf(work, 'bf16', 40, slow, valueBytes.cpu)
    expect(ratio).toMatchObject({ ceilingSeconds: 20, limit: 'copies', share: 0.5 })
  })
})

describe('statistics', () => {
  test.each([
    [[3], { median: 3, low: 3, high: 3 }],
    [[5, 1, 3], { median: 3, low: 1, high: 5 }],
    [[4, 10, 1, 2], { median: 3, low: 1, high: 10 }],
    [[10, 9], { median: 9.5, low: 9, high: 10 }],
  ])('of %s', (values, spread) => {
    expect(spreadOf(values)).toEqual(spread)
    expect(medianOf(values)).toBe(spread.median)
  })

  test('of nothing are refused', () => {
    expect(() => spreadOf([])).toThrow(RangeError)
  })

  test.each([
    [0.123456, 0.1235],
    [1234567, 1235000],
    [0, 0],
  ])('%d is written as %d', (value, expected) => {
    expect(round(value)).toBe(expected)
  })
})

describe('cases', () => {
  const cases = listCases({
    variants: ['dev', 'schnell'],
    precisions: ['bf16', 'fp8'],
    sizes: [size(1024, 1024), size(512, 768)],
  })

  test('are all combinations, in the usual number of steps', () => {
    expect(cases.map(nameCase)).toEqual([
      'dev bf16 1024×1024, 28 steps',
      'dev bf16 512×768, 28 steps',
      'dev fp8 1024×1024, 28 steps',
      'dev fp8 512×768, 28 steps',
      'schnell bf16 1024×1024, 4 steps',
      'schnell bf16 512×768, 4 steps',
      'schnell fp8 1024×1024, 4 steps',
      'schnell fp8 512×768, 4 steps',
    ])
  })

  test('have another prompt in every round', () => {
    const [first] = cases as [BenchCase]
    const prompts = [0, 1, 2].map((round) => planOf(first, round).prompt)
    expect(new Set(prompts).size).toBe(3)
  })
})
