/** PSNR and SSIM against a direct sum over 2-D windows in numpy (float64), and by hand. */
import { describe, expect, test } from 'vitest'
import { compareImages, psnr, ssim } from '../../src/cli/similarity.js'
import { flat, fromRgb } from '../engine/images/images.js'

const size = { width: 29, height: 23 }
const bytes = 3 * size.width * size.height

const noisy = (k: number) =>
  Uint8Array.from(
    { length: bytes },
    (_, i) => (37 * i + Math.floor((i * i * (k + 3)) / 5) + 11 * k) % 256,
  )
const smooth = (k: number) =>
  Uint8Array.from({ length: bytes }, (_, i) => {
    const [x, y, c] = [Math.floor(i / 3) % size.width, Math.floor(i / 3 / size.width), i % 3]
    return Math.floor(127.5 + 100 * Math.sin((x + k) / 5 + c) * Math.cos((y - k) / 7))
  })

test.each([
  ['noise and noise', noisy(0), noisy(1), 0.09775561274254911, 7.557311312320984],
  ['a picture, shifted', smooth(0), smooth(1), 0.9617902470814527, 26.315153000519054],
  ['a picture and noise', smooth(0), noisy(0), -0.00427394289178232, 8.80043674694216],
])('of %s is what numpy gives', (_, a, b, wantedSsim, wantedPsnr) => {
  expect(psnr(a, b)).toBeCloseTo(wantedPsnr, 9)
  expect(ssim({ rgb: a, size }, { rgb: b, size })).toBeCloseTo(wantedSsim, 9)
})

describe('two encoded images', () => {
  const grey = (level: number) => fromRgb(new Uint8Array(bytes).fill(level), size).png().toBuffer()

  test('that are equal differ by nothing', async () => {
    const picture = await grey(90)
    expect(await compareImages(picture, picture)).toEqual({ psnr: Infinity, ssim: 1 })
  })

  test('of one level each have the values of the formulas', async () => {
    const got = await compareImages(await grey(100), await grey(110))
    expect(got.psnr).toBeCloseTo(20 * Math.log10(25.5), 12)
    const c1 = 2.55 ** 2
    expect(got.ssim).toBeCloseTo((2 * 100 * 110 + c1) / (100 ** 2 + 110 ** 2 + c1), 9)
  })

  test('of two sizes are refused', async () => {
    const other = await flat(40, 24, 'red').png().toBuffer()
    await expect(compareImages(await grey(1), other)).rejects.toThrow(
      'Expected two images of one size but they are 29×23 and 40×24',
    )
  })
})
