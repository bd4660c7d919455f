/**
 * Signed distances of the grammar's shapes: negative inside, in units of the radius, for a point
 * (u, v) to the right of and below the shape's anchor. The same formulas as models/tiny/train/scenes.py.
 */
type Distance = (u: number, v: number) => number

export const shapes: Readonly<Record<string, Distance>> = {
  circle: (u, v) => Math.hypot(u, v) - 1,
  square: (u, v) => Math.max(Math.abs(u), Math.abs(v)) - 0.88,
  diamond: (u, v) => (Math.abs(u) + Math.abs(v) - 1.2) * Math.SQRT1_2,
  triangle: (u, v) => Math.max((1.75 * Math.abs(u) - 0.95 * (v + 1)) / 1.991, v - 0.75),
  ring: (u, v) => Math.abs(Math.hypot(u, v) - 0.76) - 0.26,
  cross(u, v) {
    const [x, y] = [Math.abs(u), Math.abs(v)]
    return Math.min(Math.max(x - 1, y - 0.34), Math.max(y - 1, x - 0.34))
  },
  star(u, v) {
    const [outer, inner, fifth] = [1.12, 0.46, (2 * Math.PI) / 5]
    const turned = Math.atan2(u, -v) + fifth / 2
    const angle = Math.abs(turned - fifth * Math.floor(turned / fifth) - fifth / 2)
    const reach = Math.hypot(u, v)
    const [x, y] = [reach * Math.cos(angle), reach * Math.sin(angle)]
    const [nx, ny] = [inner * Math.sin(fifth / 2), outer - inner * Math.cos(fifth / 2)]
    return ((x - outer) * nx + y * ny) / Math.hypot(nx, ny)
  },
  heart(u, v) {
    const [x, y] = [Math.abs(u) * 0.6, -v * 0.6 + 0.52]
    if (x + y > 1) return (Math.hypot(x - 0.25, y - 0.75) - Math.SQRT2 / 4) / 0.6
    const t = Math.max(x + y, 0) / 2
    const squared = Math.min(x * x + (y - 1) ** 2, (x - t) ** 2 + (y - t) ** 2)
    return (Math.sqrt(squared) * Math.sign(x - y)) / 0.6
  },
}
