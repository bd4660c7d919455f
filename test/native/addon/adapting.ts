/** Transformers and models over the addon, of the tiny-dev checkpoint, and LoRAs for them. */
import { onTestFinished } from 'vitest'
import { openCheckpoint } from '../../../src/engine/checkpoint/checkpoint.js'
import { readLoraFactors, scaleFactors } from '../../../src/engine/lora/merge/lowRank.js'
import { listTargets } from '../../../src/engine/lora/merge/merger.js'
import { loraSetKey } from '../../../src/engine/models/loraSet.js'
import type { Models } from '../../../src/engine/models/models.js'
import { loadTransformer, type Transformer } from '../../../src/engine/models/transformer.js'
import type { Backend, LowRankChanges } from '../../../src/engine/runtime/backends/backend.js'
import { createFusedBackend } from '../../../src/engine/runtime/backends/native/backend.js'
import type { LoraFile, Precision } from '../../../src/plan/plan.js'
import { fixtureLora, options, pristine, tinyDev, velocity } from '../../engine/lora/tinyDev.js'
import { fixtureFile, openWatched } from '../../engine/models/watchedModels.js'
import { fixturePath, goldenCase } from '../../goldens.js'
import { addon, device, fusedBackend } from './kit.js'

export const backend = fusedBackend('F32')
export const { text } = openCheckpoint(fixturePath('tiny-dev'))
export const golden = goldenCase('lora_peft')

/** Models that list what they load. */
export const create = (own: Backend, capacity = Number.POSITIVE_INFINITY) =>
  openWatched(own, { capacity })

export const lora = fixtureFile

export type Use = { readonly precision: Precision; readonly loras: readonly LoraFile[] }

/** The velocity and the pooled prompt, which show all that these LoRAs change. */
export async function outputsOf(models: Models, { precision, loras }: Use): Promise<number[]> {
  const set = await models.loadLoras(precision, loras)
  const { pooled } = await models.encodePrompt('a red fox', set)
  const { model, release } = await models.acquireTransformer(precision, set)
  return [...(await velocity(model, golden).finally(release)), ...pooled.data]
}

/** The changes of these LoRAs at any scales. */
export async function changesOf(...names: readonly string[]) {
  const adapters = names.map((name) => fixtureLora(`lora/lora_${name}.safetensors`))
  const factors = await readLoraFactors(listTargets(pristine, adapters, 'float32'), 1)
  const files = names.join()
  return (scales: readonly number[]): LowRankChanges => ({
    key: loraSetKey(files, scales),
    files,
    matrices: scaleFactors(factors, scales),
  })
}

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
    addon: counting,
    device,
    dtype: 'F32',
    attention: 'float32',
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
