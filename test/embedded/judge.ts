/** Judges a picture by what its prompt asked for: colours, position and shape. */
import { grammar, type Rgb, type Scene } from './scenes.js'
import { shapes } from './shapes.js'

export type Picture = { readonly width: number; readonly height: number; readonly rgb: Uint8Array }

export type Verdict = {
  readonly color: boolean
  readonly background: boolean
  /** The drawn shape's centroid lies within 8 % of the short side of where it should be. */
  readonly position: boolean
  /** Of all the grammar's shapes, the asked one overlaps best with what was drawn. */
  readonly shape: boolean
  /** That overlap, intersection over union. */
  readonly overlap: number
}

type Point = { readonly x: number; readonly y: number }
type Mask = { readonly points: readonly Point[] }

const positionTolerance = 0.08

export function judge(picture: Picture, scene: Scene): Verdict {
  const { width, height } = picture
  const short = Math.min(width, height)
  const distance = distanceOf(scene.shape, scene.x * width, scene.y * height, scene.radius * short)
  const inside = collect(picture, (point) => distance(point) < 0)
  const core = collect(picture, (point) => distance(point) < -0.15)
  const far = collect(
    picture,
    ({ x, y }) =>
      Math.hypot(x - scene.x * width, y - scene.y * height) > 1.5 * scene.radius * short,
  )
  const drawn = drawnMask(picture, scene)
  const shift = Math.hypot(
    centroid(drawn).x - centroid(inside).x,
    centroid(drawn).y - centroid(inside).y,
  )
  const overlaps = Object.keys(grammar.shapes).map(
    (shape) => [shape, overlap(drawn, shape)] as const,
  )
  const best = overlaps.reduce((a, b) => (b[1] > a[1] ? b : a))
  return {
    color: nearestColor(medianColor(picture, core)) === scene.color,
    background: nearestColor(medianColor(picture, far)) === scene.background,
    position: shift < positionTolerance * short,
    shape: best[0] === scene.shape,
    overlap: overlap(drawn, scene.shape),
  }
}

const distanceOf =
  (shape: string, x: number, y: number, radius: number) =>
  (point: Point): number =>
    shapes[shape]!((point.x - x) / radius, (point.y - y) / radius)

// Every fourth pixel in each direction is enough, and 16 times faster.
const stride = 4

function collect({ width, height }: Picture, wanted: (point: Point) => boolean): Mask {
  const points: Point[] = []
  for (let y = stride / 2; y < height; y += stride)
    for (let x = stride / 2; x < width; x += stride) if (wanted({ x, y })) points.push({ x, y })
  return { points }
}

function colorAt({ width, rgb }: Picture, { x, y }: Point): Rgb {
  const at = 3 * (y * width + x)
  return [rgb[at]! / 255, rgb[at + 1]! / 255, rgb[at + 2]! / 255]
}

const squaredDistance = (a: Rgb, b: Rgb) =>
  (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2

/** What is nearer to the asked colour than to the asked background. */
function drawnMask(picture: Picture, scene: Scene): Mask {
  const fore = grammar.colors[scene.color]!.rgb
  const back = grammar.colors[scene.background]!.rgb
  return collect(picture, (point) => {
    const color = colorAt(picture, point)
    return squaredDistance(color, fore) < squaredDistance(color, back)
  })
}

function centroid({ points }: Mask): Point {
  const sum = points.reduce((a, b) => ({ x: a.x + b.x, y: a.y + b.y }), { x: 0, y: 0 })
  return { x: sum.x / points.length, y: sum.y / points.length }
}

/** Of the mask and the shape of its area and centroid: intersection over union. */
function overlap(drawn: Mask, shape: string): number {
  if (drawn.points.length === 0) return 0
  const unit = unitShape(shape)
  const radius = stride * Math.sqrt(drawn.points.length / unit.area)
  const { x, y } = centroid(drawn)
  const distance = distanceOf(
    shape,
    x - unit.centroid.x * radius,
    y - unit.centroid.y * radius,
    radius,
  )
  const shared = drawn.points.filter((point) => distance(point) < 0).length
  // Both have the area of the mask.
  return shared / (2 * drawn.points.length - shared)
}

type UnitShape = { readonly area: number; readonly centroid: Point }
const unitShapes = new Map<string, UnitShape>()

/** Area and centroid of a shape of radius 1. */
function unitShape(shape: string): UnitShape {
  const known = unitShapes.get(shape) ?? measureUnitShape(shape)
  unitShapes.set(shape, known)
  return known
}

function measureUnitShape(shape: string): UnitShape {
  const side = 300
  const points = Array.from({ length: side * side }, (_, i) => ({
    x: ((i % side) / side) * 3 - 1.5,
    y: (Math.floor(i / side) / side) * 3 - 1.5,
  })).filter(({ x, y }) => shapes[shape]!(x, y) < 0)
  return { area: points.length * (3 / side) ** 2, centroid: centroid({ points }) }
}

function medianColor(picture: Picture, { points }: Mask): Rgb {
  const colors = points.map((point) => colorAt(picture, point))
  const middle = (channel: 0 | 1 | 2) =>
    colors.map((color) => color[channel]).sort((a, b) => a - b)[Math.floor(colors.length / 2)] ?? 0
  return [middle(0), middle(1), middle(2)]
}

const nearestColor = (rgb: Rgb) =>
  Object.entries(grammar.colors).reduce((a, b) =>
    squaredDistance(b[1].rgb, rgb) < squaredDistance(a[1].rgb, rgb) ? b : a,
  )[0]
