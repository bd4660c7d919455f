/** Switching between LoRA sets leaves no trace, however often and in whatever order. */
import { createHash } from 'node:crypto'
import { copyFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readLora } from '../../../../src/engine/lora/format/read.js'
import { createMerger, type Merger } from '../../../../src/engine/lora/merge/merger.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { fixturePath, goldenCase } from '../../../goldens.js'
import { temporaryFolder } from '../../../weightFiles.js'
import { type MergedTensors, mergeAll, mergeLoras } from '../merging.js'
import { fixtureLora, loadMerged, pristine, tinyDev, velocity } from '../tinyDev.js'

const options = { rounding: 'bf16', threads: 1 } as const
const scales = [-1, -0.5, 0, 0.6, 1, 3]
const sets = [['peft'], ['kohya_dense'], ['lokr'], ['aitoolkit', 'kohya_dense'], ['loha', 'xlabs']]
const adapters = sets.map((set) => set.map((name) => fixtureLora(`lora/lora_${name}.safetensors`)))
// The second LoRA of a set at another scale than the first.
const scalesOf = (set: readonly string[], scale: number) =>
  set.map((_, i) => (i === 0 ? scale : 0.75 * scale))

const mergers: Merger[] = []
beforeAll(async () => {
  for (const set of adapters) mergers.push(await createMerger(pristine, set, options))
})
afterAll(() => Promise.all(mergers.map((merger) => merger.release())))

function digest(merged: MergedTensors): string {
  const hash = createHash('sha256')
  for (const [name, { data }] of [...merged].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  return hash.digest('hex')
}

// A linear congruential generator, so that a failure can be repeated.
function createRandom(seed: number) {
  let state = seed
  return (below: number) => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((state / 2 ** 32) * below)
  }
}

test('a thousand random switches give the bits of a fresh merge', async () => {
  const fresh = new Map<string, string>()
  for (const [i, set] of adapters.entries())
    for (const scale of scales) {
      const each = scalesOf(sets[i]!, scale)
      const loras = set.map((adapter, k) => ({ adapter, scale: each[k]! }))
      fresh.set(`${i} at ${scale}`, digest(await mergeLoras(pristine, loras, options)))
    }
  expect(new Set(fresh.values()).size).toBe(sets.length * (scales.length - 1) + 1)
  const random = createRandom(7)
  for (let i = 0; i < 1000; i++) {
    const set = random(sets.length)
    const scale = scales[random(scales.length)]!
    const merged = await mergeAll(mergers[set]!, scalesOf(sets[set]!, scale))
    expect(digest(merged)).toBe(fresh.get(`${set} at ${scale}`))
  }
})

test('another scale never reads the LoRA file again', async () => {
  const file = join(temporaryFolder(), 'lora.safetensors')
  copyFileSync(fixturePath('lora/lora_peft.safetensors'), file)
  const adapter = readLora(openSafetensors(file), { transformer: tinyDev.params })
  const merger = await createMerger(pristine, [adapter], options)
  rmSync(file)
  expect(digest(await mergeAll(merger, [0.6]))).toBe(digest(await mergeAll(mergers[0]!, [0.6])))
  expect(digest(await mergeAll(merger, [3]))).toBe(digest(await mergeAll(mergers[0]!, [3])))
  await merger.release()
})

test('sessions of several sets side by side predict as each alone', async () => {
  const golden = goldenCase('lora_two')
  const load = async (set: number, scale: number) =>
    loadMerged(await mergeAll(mergers[set]!, scalesOf(sets[set]!, scale)))
  const uses = [
    [0, 1],
    [3, 0.6],
    [0, -1],
    [4, 0],
  ] as const
  const alone: Float32Array[] = []
  for (const [set, scale] of uses) alone.push(await velocity(await load(set, scale), golden))
  const sessions = await Promise.all(uses.map(([set, scale]) => load(set, scale)))
  for (const i of [2, 0, 3, 1, 0, 3, 2, 1])
    expect(await velocity(sessions[i]!, golden)).toEqual(alone[i])
  expect(alone[3]).toEqual(await velocity(await loadMerged(new Map()), golden))
})
