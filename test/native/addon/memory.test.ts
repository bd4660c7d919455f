/** The weights' copies under a budget: they come, go and come again, and the images stay the same. */
import { expect, onTestFinished, test } from 'vitest'
import { createModelMemory } from '../../../src/engine/models/memory.js'
import { createMemoryBudget } from '../../../src/engine/models/memoryBudget.js'
import { runBytesOf } from '../../../src/engine/models/memoryEstimate.js'
import { loadModels } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import type { GenerationPlan, LoraFile } from '../../../src/plan/plan.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'
import { fusedBackend } from './kit.js'

const backend = fusedBackend('F32')
const lora = (scale: number): LoraFile => ({
  name: 'lora',
  path: fixturePath('lora/lora_peft.safetensors'),
  scale,
})

async function open(capacity: number) {
  const budget = createMemoryBudget(capacity)
  const settings = { threads: 1, backend, memory: createModelMemory(budget) }
  const models = await loadModels('dev', fixturePath('tiny-dev'), settings)
  onTestFinished(() => models.release())
  async function run(change: Partial<GenerationPlan>): Promise<Uint8Array> {
    const images: Uint8Array[] = []
    const { signal } = new AbortController()
    const onImage = (_: number, { bytes }: { bytes: Uint8Array }) => {
      images.push(bytes)
    }
    await generate({ ...foxPlan, ...change }, models, { signal, onProgress: () => {}, onImage })
    return images[0]!
  }
  const residents = () => budget.residents().map(({ name }) => name)
  const bytes = () => budget.residents().reduce((sum, model) => sum + model.bytes, 0)
  return { models, run, residents, bytes }
}

const changes: readonly Partial<GenerationPlan>[] = [
  { loras: [lora(0.8)] },
  { loras: [lora(-0.5)] },
  {},
  { precision: 'fp8', loras: [lora(0.8)] },
  { loras: [lora(0.8)] },
]

test('where there is memory a transformer has a copy of its weights from the start', async () => {
  const { run, residents } = await open(Number.POSITIVE_INFINITY)
  expect(residents()).toContain('base of dev bf16')
  await run({ precision: 'fp8' })
  expect(residents()).toContain('base of dev fp8')
})

test('with less memory copies are evicted, and what is merged without them is the same', async () => {
  const unlimited = await open(Number.POSITIVE_INFINITY)
  const expected: Uint8Array[] = []
  for (const change of changes) expected.push(await unlimited.run(change))
  expect(new Set(expected.map(String)).size).toBe(4)
  const { transformers, decoder, shapes } = unlimited.models
  const running = decoder.bytes + runBytesOf(shapes, foxPlan.size)
  // For one copy; and then for none.
  for (const transformerCount of [2.1, 1.1]) {
    const capacity = running + transformerCount * transformers.bf16.bytes
    const narrow = await open(capacity)
    for (const [i, change] of changes.entries())
      expect(await narrow.run(change), `change ${i}`).toEqual(expected[i])
    expect(narrow.bytes()).toBeLessThanOrEqual(capacity)
    expect(narrow.residents().length).toBeLessThan(unlimited.residents().length)
  }
})
