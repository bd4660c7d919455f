/** Transformers and adapters over the addon, of the tiny-dev checkpoint, and LoRAs for them. */
import { afterAll, onTestFinished } from 'vitest'
import { openCheckpoint } from '../../../src/engine/checkpoint/checkpoint.js'
import { openFactors } from '../../../src/engine/lora/merge/lowRank.js'
import { listTargets } from '../../../src/engine/lora/merge/merger.js'
import { type Adapters, createAdapters } from '../../../src/engine/models/loraSwitcher.js'
import { createRoom } from '../../../src/engine/models/memory.js'
import { createBudget } from '../../../src/engine/models/memoryBudget.js'
import { loadClip, loadT5 } from '../../../src/engine/models/textEncoders.js'
import { loadTransformer, type Transformer } from '../../../src/engine/models/transformer.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import { createFusedBackend } from '../../../src/engine/runtime/backends/native/backend.js'
import type { LoraFile, Precision } from '../../../src/plan/plan.js'
import { fixtureLora, options, pristine, tinyDev, velocity } from '../../engine/lora/tinyDev.js'
import { fixturePath, goldenCase } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { addon, device, fusedBackend } from './kit.js'

export const backend = fusedBackend('F32')
export const { transformer, text } = openCheckpoint(fixturePath('tiny-dev'))
export const golden = goldenCase('lora_peft')
const t5 = await loadT5(text, 16, options, backend)
afterAll(() => t5.sessions[0]!.release())

/** Adapters that note what they load. */
export async function create(own: Backend, capacity = Number.POSITIVE_INFINITY) {
  const loaded: string[] = []
  const room = createRoom(createBudget(capacity))
  const adapters = createAdapters(
    { transformer, clip: text.clip },
    {
      ...{ name: 'dev', changesInPlace: true },
      // One that has no room beside another is told by the capacity.
      ...{ transformerBytes: { bf16: 2, fp8: 2 }, clipBytes: 0 },
      t5: t5.encode,
      loadTransformer: (component, precision, use) => {
        loaded.push(precision)
        return loadTransformer(component, options, precision, own, use)
      },
      loadClip: (clip) => {
        loaded.push('clip')
        return loadClip({ ...text, clip }, options, own)
      },
    },
    { threads: 1, scratch: temporaryFolder(), maxBytesInMemory: 2 ** 30 },
    room,
  )
  return { adapters, loaded, room }
}

export const lora = (name: string, scale: number): LoraFile => ({
  name: 'lora',
  path: fixturePath(`lora/lora_${name}.safetensors`),
  scale,
})

export type Wish = { readonly precision: Precision; readonly loras: readonly LoraFile[] }

/** What the networks make of a wish. */
export async function draw(adapters: Adapters, { precision, loras }: Wish) {
  const { enter, prompt } = await adapters.select(precision, loras)
  const { pooled } = await prompt.encode('a red fox')
  const { transformer, leave } = await enter()
  return [...(await velocity(transformer, golden).finally(leave)), ...pooled.data]
}

export const factorsOf = (...names: readonly string[]) =>
  openFactors(
    listTargets(
      pristine,
      names.map((name) => fixtureLora(`lora/lora_${name}.safetensors`)),
      'float32',
    ),
    1,
  )

/** A transformer for one test. */
export async function load(precision: Precision, own = backend): Promise<Transformer> {
  const loaded = await loadTransformer(tinyDev, options, precision, own)
  onTestFinished(async () => {
    for (const session of loaded.sessions) await session.release()
  })
  return loaded
}

/** A backend that counts how its weights are changed, a call for each set of them. */
export function countingBackend() {
  const calls = { merge: 0, stage: 0, swap: 0, rescale: 0 }
  const { merge, stage, swap, rescale } = addon.WeightSet.prototype
  class CountingSet extends addon.WeightSet {
    override merge = (changes: Parameters<typeof merge>[0]) => {
      calls.merge++
      return merge.call(this, changes)
    }
    override stage = (changes: Parameters<typeof stage>[0]) => {
      calls.stage++
      return stage.call(this, changes)
    }
    override swap = () => {
      calls.swap++
      return swap.call(this)
    }
    override rescale = (scales: Parameters<typeof rescale>[0]) => {
      calls.rescale++
      return rescale.call(this, scales)
    }
  }
  const counting = { ...addon, WeightSet: CountingSet }
  const backend = createFusedBackend({
    ...{ addon: counting, device },
    ...{ dtype: 'F32', attention: 'float32' },
  })
  return { calls, backend }
}

/** The same numbers below `end` every time. */
export function createDice(end: number) {
  let state = 1
  return () => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((state / 2 ** 32) * end)
  }
}
