import { describe, expect, test } from 'vitest'
import { aspectRatios } from '../../src/contract/input.js'
import { chooseSize, fitImage } from '../../src/plan/sizing.js'

const published = [
  ['1:1', 1024, 1024, 512, 512],
  ['16:9', 1344, 768, 672, 384],
  ['21:9', 1536, 640, 768, 320],
  ['3:2', 1216, 832, 608, 416],
  ['2:3', 832, 1216, 416, 608],
  ['4:5', 896, 1088, 448, 544],
  ['5:4', 1088, 896, 544, 448],
  ['3:4', 896, 1152, 448, 576],
  ['4:3', 1152, 896, 576, 448],
  ['9:16', 768, 1344, 384, 672],
  ['9:21', 640, 1536, 320, 768],
] as const

test('the table below has a row for every named shape', () => {
  expect([...published.map(([ratio]) => ratio), 'custom']).toEqual(aspectRatios)
})

test.each(published)('%s is %i×%i, and %i×%i at 0.25 megapixels', (ratio, ...sides) => {
  const [width, height, smallWidth, smallHeight] = sides
  expect(chooseSize({ aspect_ratio: ratio, megapixels: '1' })).toEqual({ width, height })
  expect(chooseSize({ aspect_ratio: ratio, megapixels: '0.25' })).toEqual({
    width: smallWidth,
    height: smallHeight,
  })
})

test('width and height do not count for a named shape', () => {
  const wish = { aspect_ratio: '1:1', megapixels: '1', width: 256, height: 300 } as const
  expect(chooseSize(wish)).toEqual({ width: 1024, height: 1024 })
})

describe('custom', () => {
  const choose = (width?: number, height?: number, megapixels: '1' | '0.25' = '1') =>
    chooseSize({ aspect_ratio: 'custom', megapixels, width, height })

  test.each([
    [256, 256],
    [257, 272],
    [264, 272],
    [272, 272],
    [1433, 1440],
    [1440, 1440],
  ])('rounds %i up to %i', (side, rounded) => {
    expect(choose(side, 512)).toEqual({ width: rounded, height: 512 })
    expect(choose(512, side)).toEqual({ width: 512, height: rounded })
  })

  test('does not heed megapixels', () => {
    expect(choose(640, 480, '0.25')).toEqual({ width: 640, height: 480 })
  })

  test.each([
    [512, undefined],
    [undefined, 512],
    [undefined, undefined],
  ])('needs both sides: %s×%s is an error', (width, height) => {
    expect(() => choose(width, height)).toThrow(
      "width and height must be defined if aspect ratio is 'custom'",
    )
  })
})

describe('a picture made from an image', () => {
  test.each([
    ['is the size of the image', [512, 256], [512, 256]],
    ['is rounded up', [300, 200], [304, 208]],
    ['is never enlarged', [1, 1], [16, 16]],
    ['has a longest side of 1440', [4000, 3000], [1440, 1088]],
    ['has a longest side of 1440, standing', [3000, 4000], [1088, 1440]],
    ['just above', [1441, 1441], [1440, 1440]],
    // 1080·(1440/1920) = 810 → 816
    ['in 16:9', [1920, 1080], [1440, 816]],
    ['very long', [20000, 100], [1440, 16]],
  ] as const)('%s: %o becomes %o', (_, [width, height], [w, h]) => {
    expect(fitImage({ width, height })).toEqual({ width: w, height: h })
  })

  test('has no size where the shorter side vanishes', () => {
    expect(() => fitImage({ width: 3000, height: 2 })).toThrow(/but received 3000x2$/)
  })
})
