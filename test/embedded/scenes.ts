/**
 * What the embedded model is asked for: scenes of its grammar (models/tiny/grammar.json), drawn
 * from a seeded generator, with the prompt that asks for each.
 */
import { readFileSync } from 'node:fs'
import { z } from 'zod'

const words = z.array(z.string())
const Rgb = z.tuple([z.number(), z.number(), z.number()])
const Grammar = z.object({
  colors: z.record(z.string(), z.object({ rgb: Rgb, words })),
  shapes: z.record(z.string(), z.object({ words })),
  sizes: z.record(z.string(), z.object({ radius: z.number(), words })),
  positions: z.record(z.string(), z.object({ x: z.number(), y: z.number(), phrases: words })),
  largePull: z.number(),
})

export const grammar = Grammar.parse(
  JSON.parse(readFileSync(new URL('../../models/tiny/grammar.json', import.meta.url), 'utf8')),
)

export type Rgb = z.output<typeof Rgb>

/** Centre in fractions of width and height, radius in fractions of the short side. */
export type Scene = {
  readonly prompt: string
  readonly shape: string
  readonly color: string
  readonly background: string
  readonly x: number
  readonly y: number
  readonly radius: number
}

/** `count` scenes; every shape comes round at every position. */
export function drawScenes(count: number, seed: number): Scene[] {
  const random = mulberry32(seed)
  const pick = <T>(items: readonly T[]) => items[Math.floor(random() * items.length)]!
  const [shapes, positions] = [Object.keys(grammar.shapes), Object.keys(grammar.positions)]
  return Array.from({ length: count }, (_, i) => {
    const color = pick(Object.keys(grammar.colors))
    const background = pick(Object.keys(grammar.colors).filter((name) => name !== color))
    const size = pick(Object.keys(grammar.sizes))
    const shape = shapes[i % shapes.length]!
    const position = positions[Math.floor(i / shapes.length) % positions.length]!
    const noun = [
      size === 'medium' ? '' : pick(grammar.sizes[size]!.words),
      pick(grammar.colors[color]!.words),
      pick(grammar.shapes[shape]!.words),
    ]
    const place = position === 'center' ? '' : pick(grammar.positions[position]!.phrases)
    const phrase = ['a', ...noun, place, 'on a', pick(grammar.colors[background]!.words)]
    const prompt = `${phrase.filter(Boolean).join(' ')} background`
    return { prompt, shape, color, background, ...placeOf(position, size) }
  })
}

function placeOf(position: string, size: string) {
  const { x, y } = grammar.positions[position]!
  const pull = size === 'large' ? grammar.largePull : 1
  const towardsCentre = (fraction: number) => 0.5 + (fraction - 0.5) * pull
  return { x: towardsCentre(x), y: towardsCentre(y), radius: grammar.sizes[size]!.radius }
}

/** A small seeded generator of numbers in [0, 1). */
function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
