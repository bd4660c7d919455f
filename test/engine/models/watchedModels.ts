/** The models of tiny-dev, of known sizes, with the names of what their memory loads. */
import { onTestFinished } from 'vitest'
import { createModelMemory } from '../../../src/engine/models/memory.js'
import { createMemoryBudget, type MemoryBudget } from '../../../src/engine/models/memoryBudget.js'
import { loadModels, type ModelSettings, type Models } from '../../../src/engine/models/models.js'
import type { Backend } from '../../../src/engine/runtime/backends/backend.js'
import type { LoraFile, Precision } from '../../../src/plan/plan.js'
import { fixturePath, goldenCase } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { velocity } from '../lora/tinyDev.js'

export type WatchedModels = {
  readonly models: Models
  /** What was loaded after the models were opened; the keys of LoRA sets are left out. */
  readonly loaded: string[]
  readonly warnings: string[]
}

export type WatchedOptions = Partial<ModelSettings> & {
  /** A transformer takes 2 of it, CLIP takes 1, the others nothing. */
  readonly capacity?: number
}

export async function openWatched(
  backend: Backend,
  { capacity = Number.POSITIVE_INFINITY, ...settings }: WatchedOptions = {},
): Promise<WatchedModels> {
  const loaded: string[] = []
  const warnings: string[] = []
  const budget = createMemoryBudget(capacity)
  const acquire: MemoryBudget['acquire'] = (request) => {
    const plan = budget.acquire(request)
    loaded.push(...plan.load.map(({ name }) => name.replace(/ [0-9a-f]{16}$/, '')))
    return plan
  }
  const models = await loadModels('dev', fixturePath('tiny-dev'), {
    threads: 1,
    scratch: temporaryFolder(),
    backend: { ...backend, weightBytes: sizeOf },
    memory: createModelMemory({ ...budget, acquire }),
    onWarning: (message) => warnings.push(message),
    ...settings,
  })
  onTestFinished(() => models.release())
  loaded.length = 0
  return { models, loaded, warnings }
}

/** Of the variant's networks, only the transformer has two graphs. */
const sizeOf: Backend['weightBytes'] = (graphs) => {
  if (graphs.length === 2) return 2
  const isClip = graphs.some((graph) =>
    graph.initializers().some(({ name }) => name.includes('token_embedding')),
  )
  return isClip ? 1 : 0
}

/** A LoRA of the fixtures. */
export const fixtureFile = (name: string, scale = 1): LoraFile => ({
  name: 'lora',
  path: fixturePath(`lora/lora_${name}.safetensors`),
  scale,
})

const golden = goldenCase('lora_peft')

/** The velocity that the transformer with these LoRAs predicts. */
export async function predict(models: Models, precision: Precision, ...loras: LoraFile[]) {
  const set = await models.loadLoras(precision, loras)
  const { model, release } = await models.acquireTransformer(precision, set)
  return velocity(model, golden).finally(release)
}
