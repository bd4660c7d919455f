/** Generations under a budget that cannot hold all networks: the same images, within the budget. */
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { createModelMemory } from '../../../src/engine/models/memory.js'
import { createMemoryBudget, type MemoryBudget } from '../../../src/engine/models/memoryBudget.js'
import { runBytesOf } from '../../../src/engine/models/memoryEstimate.js'
import { loadModels, type Models } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'

type Both = { readonly dev: Models; readonly schnell: Models }

async function load(budget: MemoryBudget): Promise<Both> {
  const settings = { threads: 1, memory: createModelMemory(budget) }
  return {
    dev: await loadModels('dev', fixturePath('tiny-dev'), settings),
    schnell: await loadModels('schnell', fixturePath('tiny-schnell'), settings),
  }
}

async function generateImage(models: Both, plan: GenerationPlan): Promise<Uint8Array> {
  const images: Uint8Array[] = []
  const { signal } = new AbortController()
  await generate(plan, models[plan.variant], {
    signal,
    onProgress: () => {},
    onImage(_, { bytes }) {
      images.push(bytes)
    },
  })
  return images[0]!
}

const lora = { name: 'lora', path: fixturePath('lora/lora_peft.safetensors'), scale: 0.8 }
const plans = (['bf16', 'fp8'] as const).flatMap((precision): GenerationPlan[] => [
  { ...foxPlan, precision },
  { ...foxPlan, precision, loras: [lora] },
  { ...foxPlan, precision, variant: 'schnell' },
])

const unlimited = await load(createMemoryBudget(Number.POSITIVE_INFINITY))
afterAll(async () => {
  await unlimited.dev.release()
  await unlimited.schnell.release()
})
const expected: Uint8Array[] = []
for (const plan of plans) expected.push(await generateImage(unlimited, plan))

test('with memory for one transformer the images are those of a machine with memory for all', async () => {
  const { transformers, decoder, shapes } = unlimited.dev
  const { bf16, fp8 } = transformers
  const capacity =
    Math.max(bf16.bytes, fp8.bytes) + decoder.bytes + runBytesOf(shapes, foxPlan.size)
  const watched = watch(createMemoryBudget(capacity))
  const models = await load(watched.budget)
  onTestFinished(async () => {
    await models.dev.release()
    await models.schnell.release()
  })
  for (const [i, plan] of [...plans.entries(), ...[...plans.entries()].reverse()])
    expect(await generateImage(models, plan), `plan ${i}`).toEqual(expected[i])
  expect(watched.evicted()).toEqual(expect.objectContaining({ 'dev bf16': expect.any(Number) }))
  expect(watched.peak()).toBeLessThanOrEqual(capacity)
})

test('a machine that has no memory for an image fails to load, with the numbers', async () => {
  const budget = createMemoryBudget(1000)
  await expect(load(budget)).rejects.toThrow(
    /^Expected a prediction that fits into 1.0 kB of memory but it needs \d+\.\d kB: dev T5 /,
  )
  expect(budget.residents()).toEqual([])
})

/** Counts evictions by model, and records the most bytes that were resident at a time. */
function watch(budget: MemoryBudget) {
  const evicted: Record<string, number> = {}
  let peak = 0
  const acquire: MemoryBudget['acquire'] = (request) => {
    const plan = budget.acquire(request)
    for (const { name } of plan.evict) evicted[name] = (evicted[name] ?? 0) + 1
    const bytes = budget.residents().reduce((sum, model) => sum + model.bytes, 0)
    peak = Math.max(peak, bytes + request.runBytes)
    return plan
  }
  return { budget: { ...budget, acquire }, evicted: () => evicted, peak: () => peak }
}
