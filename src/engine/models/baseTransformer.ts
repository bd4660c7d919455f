/**
 * A transformer with the checkpoint's own weights at one precision, into which LoRAs of low rank
 * are merged in place. While memory lasts, a copy of the unmerged weights makes merges faster.
 */
import type { LowRankChanges } from '../runtime/backends/backend.js'
import {
  type AcquireOptions,
  type Lease,
  lease,
  type ManagedModel,
  type ModelMemory,
  type ModelOptions,
} from './memory.js'
import type { Transformer } from './transformer.js'

export type BaseTransformer = {
  readonly model: ManagedModel<Transformer>
  /** Loads it and merges these changes, and no others, into its weights. */
  readonly acquire: (
    changes: LowRankChanges,
    options?: AcquireOptions,
  ) => Promise<Lease<Transformer>>
  /** Uploads changes for a later `acquire`, also while a run is under way; only if it is loaded. */
  readonly stage: (changes: LowRankChanges) => Promise<void>
}

export function createBaseTransformer(
  memory: ModelMemory,
  options: ModelOptions<Transformer>,
): BaseTransformer {
  const model = memory.manage(options)

  function manageCopy(): ManagedModel {
    const { bytes, keep, drop } = model.network().adaptable!.base
    return memory.manage({
      name: `base of ${model.name}`,
      of: model.name,
      bytes,
      async load() {
        await keep()
        return { sessions: [] }
      },
      unload: drop,
    })
  }

  return {
    model,
    async acquire(changes, acquireOptions = {}) {
      const wasLoaded = model.isLoaded()
      return lease(memory, model, acquireOptions, async ({ adaptable }) => {
        if (!adaptable) return
        // The copy helps merges only; memory may be free after loading.
        if (!wasLoaded || adaptable.active() !== changes.key)
          await memory.acquireOptional(manageCopy())
        await adaptable.activate(changes)
      })
    },
    async stage(changes) {
      if (model.isLoaded()) await model.network().adaptable?.stage(changes)
    },
  }
}
