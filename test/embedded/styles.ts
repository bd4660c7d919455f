/** The embedded LoRAs and the measures of models/tiny/loras/styles.json, of 256² pixels. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'

const folder = new URL('../../models/tiny/loras/', import.meta.url)
const Style = z.object({
  name: z.string(),
  file: z.string(),
  trigger: z.string(),
  expect: z.enum(['falls', 'rises']),
})

/** What a style changes, as a number. */
type Measure = (rgb: Uint8Array) => number

const side = 256

const pixels = (rgb: Uint8Array) =>
  Array.from({ length: side * side }, (_, i) => [...rgb.subarray(3 * i, 3 * i + 3)])

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length

/** Over the four corner squares of 3 % of the side. */
const corners = (rgb: Uint8Array) => {
  const edge = Math.round(0.03 * side)
  const isNear = (at: number) => at < edge || at >= side - edge
  return pixels(rgb).filter((_, i) => isNear(i % side) && isNear(Math.floor(i / side)))
}

const measures: Readonly<Record<string, Measure>> = {
  'fofr/shxdo-v2': (rgb) => mean([...rgb]) / 255,
  'fofr/0_1-webp-4-layers': (rgb) =>
    mean(
      pixels(rgb).map((pixel) =>
        Number(pixel.some((value, c) => Math.abs(value - rgb[c]!) > 0.2 * 255)),
      ),
    ),
  'jose0012kjo/2vinij2': (rgb) => mean(pixels(rgb).map(([r, , b]) => r! - b!)) / 255,
  'andreasjansson/flux-sprites': (rgb) =>
    mean(corners(rgb).map(([r, g, b]) => (r! + b!) / 2 - g!)) / 255,
  'bocaaa/np': (rgb) =>
    mean(pixels(rgb).map((pixel) => Math.max(...pixel) - Math.min(...pixel))) / 255,
}

/** Each style with its file's path and its measure; `sign` is which way it moves at scale 1. */
export const styles = z
  .array(Style)
  .parse(JSON.parse(readFileSync(new URL('styles.json', folder), 'utf8')))
  .map(({ file, expect, ...style }) => ({
    ...style,
    path: fileURLToPath(new URL(file, folder)),
    sign: expect === 'rises' ? 1 : -1,
    measure: measures[style.name]!,
  }))

/** The style whose name begins like this. */
export const styleOf = (name: string) => styles.find((style) => style.name.startsWith(name))!
