/**
 * Signed distances of the grammar's shapes: negative inside, in units of the radius, for a point
 * (u, v) to the right of and below the shape's anchor. The same formulas as models/tiny/train/scenes.py.
 */
type Distance = (u: number, v: number) => number

export const shapes: Readonly<Record<string, Distance>> = {
  circle: (u, v) => Math.hypot(u, v) - 1,
  square: (u, v) => Math.max(Math.abs(u), Math.abs(v)) - 0.88,
  triangle: (u, v) => Math.max((1.75 * Math.abs(u) - 0.95 * (v + 1)) / 1.991, v - 0.75),
  ring: (u, v) => Math.abs(Math.hypot(u, v) - 0.76) - 0.26,
  star(u, v) {
    const [outer, inner, fifth] = [1.12, 0.46, (2 * Math.PI) / 5]
    const turned = Math.atan2(u, -v) + fifth / 2
    const angle = Math.abs(turned - fifth * Math.floor(turned / fifth) - fifth / 2)
    const reach = Math.hypot(u, v)
    const [x, y] = [reach * Math.cos(angle), reach * Math.sin(angle)]
    const [nx, ny] = [inner * Math.sin(fifth / 2), outer - inner * Math.cos(fifth / 2)]
    return ((x - outer) * nx + y * ny) / Math.hypot(nx, ny)
  },
}
