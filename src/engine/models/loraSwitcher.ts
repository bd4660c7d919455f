/**
 * The transformers of a variant, with LoRAs or without: merged in place where the backend can
 * change weights and the LoRAs are of low rank; else in sessions over merged weights, one set of
 * LoRAs at a time. Every merge starts from the checkpoint's own tensors.
 */

import type { Precision } from '../../plan/plan.js'
import { unchanged } from '../runtime/backends/backend.js'
import { createBaseTransformer } from './baseTransformer.js'
import {
  type LoraSet,
  type LoraTargets,
  lowRankChanges,
  type MergeSettings,
  mergeComponent,
} from './loraSet.js'
import {
  type AcquireOptions,
  type Lease,
  lease,
  type ManagedModel,
  type ModelMemory,
} from './memory.js'
import type { Transformer } from './transformer.js'

export type LoraSwitcher = {
  /** The transformers without LoRAs. */
  readonly bases: Readonly<Record<Precision, ManagedModel<Transformer>>>
  /** Loads the transformer with this set, and keeps it in memory until the lease is released. */
  readonly acquire: (
    precision: Precision,
    set: LoraSet,
    options?: AcquireOptions,
  ) => Promise<Lease<Transformer>>
  /** Whether `stage` would do anything. */
  readonly canStage: (precision: Precision) => boolean
  /** Uploads the set's factors for a later `acquire`, also while a run is under way. */
  readonly stage: (precision: Precision, set: LoraSet) => Promise<void>
  /** Unloads all of them. */
  readonly release: () => Promise<void>
}

export type SwitcherOptions = {
  /** The variant: what the models' names begin with. */
  readonly name: string
  readonly component: LoraTargets['transformer']
  readonly bytes: Readonly<Record<Precision, number>>
  readonly load: (
    component: LoraTargets['transformer'],
    precision: Precision,
    use: 'adaptable' | 'fixed',
  ) => Promise<Transformer>
  readonly settings: MergeSettings
}

/** Loads nothing. */
export function createLoraSwitcher(
  { name, component, bytes, load, settings }: SwitcherOptions,
  memory: ModelMemory,
): LoraSwitcher {
  const { changesInPlace } = settings
  const openBase = (precision: Precision) =>
    createBaseTransformer(memory, {
      name: `${name} ${precision}`,
      bytes: bytes[precision],
      load: () => load(component, precision, 'adaptable'),
    })
  const bases = { bf16: openBase('bf16'), fp8: openBase('fp8') }

  const slot = `${name} with LoRAs`

  /** Undefined where the base is used. Memory may not fit two merged transformers: one slot. */
  function mergedModel(precision: Precision, { key, scales, parsed }: LoraSet) {
    const { transformer } = parsed
    if (transformer.kind !== 'merged') return undefined
    const base = bases[precision].model
    return memory.manage({
      name: `${base.name} with LoRAs ${key}`,
      bytes: base.bytes,
      of: changesInPlace ? base.name : undefined,
      slot,
      async load() {
        const merged = await mergeComponent(component, transformer.merger, scales, settings)
        return load(merged.component, precision, 'fixed').finally(merged.release)
      },
    })
  }

  return {
    bases: { bf16: bases.bf16.model, fp8: bases.fp8.model },
    async acquire(precision, set, options = {}) {
      const base = bases[precision]
      const merged = mergedModel(precision, set)
      if (!merged) return base.acquire(lowRankChanges(set), options)
      if (!changesInPlace) return lease(memory, merged, options)
      // Its sessions share all unmerged weights with the base, which must have no LoRAs in them.
      const pristine = await base.acquire(unchanged)
      const alongside = [...(options.alongside ?? []), base.model]
      return lease(memory, merged, { ...options, alongside }).finally(pristine.release)
    },
    canStage: (precision) => changesInPlace && bases[precision].model.isLoaded(),
    stage: (precision, set) => bases[precision].stage(lowRankChanges(set)),
    async release() {
      await memory.unloadSlot(slot)
      await memory.unload([bases.bf16.model, bases.fp8.model])
    },
  }
}
