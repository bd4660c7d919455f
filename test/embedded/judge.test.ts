import { expect, test } from 'vitest'
import { judge, type Picture } from './judge.js'
import { drawScenes, grammar, type Scene } from './scenes.js'
import { shapes } from './shapes.js'

/** The scene as it should be drawn. */
function render(scene: Scene, width: number, height: number): Picture {
  const rgb = new Uint8Array(3 * width * height)
  const radius = scene.radius * Math.min(width, height)
  for (let i = 0; i < width * height; i++) {
    const u = ((i % width) - scene.x * width) / radius
    const v = (Math.floor(i / width) - scene.y * height) / radius
    const color = shapes[scene.shape]!(u, v) < 0 ? scene.color : scene.background
    rgb.set(
      grammar.colors[color]!.rgb.map((value) => Math.round(255 * value)),
      3 * i,
    )
  }
  return { width, height, rgb }
}

const scenes = drawScenes(24, 5)

test.each([
  [512, 512],
  [768, 320],
])('a scene drawn as asked at %d×%d is found right in everything', (width, height) => {
  for (const scene of scenes) {
    const verdict = judge(render(scene, width, height), scene)
    expect(verdict).toMatchObject({ color: true, background: true, position: true, shape: true })
    expect(verdict.overlap).toBeGreaterThan(0.9)
  }
})

test('each thing drawn wrong is found wrong', () => {
  for (const scene of scenes) {
    const others = scenes.filter((other) => other.shape !== scene.shape)
    const wrong = (change: Partial<Scene>) =>
      judge(render({ ...scene, ...change }, 512, 512), scene)
    expect(wrong({ shape: others[0]!.shape }).shape).toBe(false)
    expect(wrong({ x: 1 - scene.x + (scene.x === 0.5 ? 0.2 : 0) }).position).toBe(false)
    const third = Object.keys(grammar.colors).find(
      (name) => name !== scene.color && name !== scene.background,
    )!
    expect(wrong({ background: third }).background).toBe(false)
    expect(wrong({ color: third }).color).toBe(false)
  }
})
