/** The weights' copies under a budget: they come, go and come again, and the pictures stay the same. */
import { expect, onTestFinished, test } from 'vitest'
import { createRoom } from '../../../src/engine/models/memory.js'
import { createBudget } from '../../../src/engine/models/memoryBudget.js'
import { drawBytes } from '../../../src/engine/models/memoryEstimate.js'
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
  const budget = createBudget(capacity)
  const settings = { threads: 1, backend, room: createRoom(budget) }
  const models = await loadModels('dev', fixturePath('tiny-dev'), settings)
  onTestFinished(() => models.release())
  async function draw(changes: Partial<GenerationPlan>): Promise<Uint8Array> {
    const pictures: Uint8Array[] = []
    const { signal } = new AbortController()
    const onImage = (_: number, { bytes }: { bytes: Uint8Array }) => void pictures.push(bytes)
    await generate({ ...foxPlan, ...changes }, models, { signal, onProgress: () => {}, onImage })
    return pictures[0]!
  }
  const residents = () => budget.residents().map(({ name }) => name)
  const bytes = () => budget.residents().reduce((sum, part) => sum + part.bytes, 0)
  return { models, draw, residents, bytes }
}

const wishes: readonly Partial<GenerationPlan>[] = [
  { loras: [lora(0.8)] },
  { loras: [lora(-0.5)] },
  {},
  { precision: 'fp8', loras: [lora(0.8)] },
  { loras: [lora(0.8)] },
]

test('where there is room a transformer has a copy of its weights from the start', async () => {
  const { draw, residents } = await open(Number.POSITIVE_INFINITY)
  expect(residents()).toContain('base of dev bf16')
  await draw({ precision: 'fp8' })
  expect(residents()).toContain('base of dev fp8')
})

test('with less room copies give way, and what is merged without them is the same', async () => {
  const roomy = await open(Number.POSITIVE_INFINITY)
  const expected: Uint8Array[] = []
  for (const wish of wishes) expected.push(await roomy.draw(wish))
  expect(new Set(expected.map(String)).size).toBe(4)
  const { transformers, decoder, shapes } = roomy.models
  const drawing = decoder.bytes + drawBytes(shapes, foxPlan.size)
  // For one copy; and then for none.
  for (const transformerCount of [2.1, 1.1]) {
    const capacity = drawing + transformerCount * transformers.bf16.bytes
    const narrow = await open(capacity)
    for (const [i, wish] of wishes.entries())
      expect(await narrow.draw(wish), `wish ${i}`).toEqual(expected[i])
    expect(narrow.bytes()).toBeLessThanOrEqual(capacity)
    expect(narrow.residents().length).toBeLessThan(roomy.residents().length)
  }
})
