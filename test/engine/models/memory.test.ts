/** Generations under a budget that cannot hold all networks: the same pictures, and nothing too much. */
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { createRoom } from '../../../src/engine/models/memory.js'
import { type Budget, createBudget } from '../../../src/engine/models/memoryBudget.js'
import { drawBytes } from '../../../src/engine/models/memoryEstimate.js'
import { loadModels, type Models } from '../../../src/engine/models/models.js'
import { generate } from '../../../src/engine/pipeline/generate.js'
import type { GenerationPlan } from '../../../src/plan/plan.js'
import { fixturePath } from '../../goldens.js'
import { foxPlan } from '../../worker/engine/foxPlan.js'

type Both = { readonly dev: Models; readonly schnell: Models }

async function load(budget: Budget): Promise<Both> {
  const room = createRoom(budget)
  const settings = { threads: 1, room }
  return {
    dev: await loadModels('dev', fixturePath('tiny-dev'), settings),
    schnell: await loadModels('schnell', fixturePath('tiny-schnell'), settings),
  }
}

async function draw(models: Both, plan: GenerationPlan): Promise<Uint8Array> {
  const pictures: Uint8Array[] = []
  const { signal } = new AbortController()
  await generate(plan, models[plan.variant], {
    signal,
    onProgress: () => {},
    onImage: (_, { bytes }) => void pictures.push(bytes),
  })
  return pictures[0]!
}

const lora = { name: 'lora', path: fixturePath('lora/lora_peft.safetensors'), scale: 0.8 }
const plans = (['bf16', 'fp8'] as const).flatMap((precision): GenerationPlan[] => [
  { ...foxPlan, precision },
  { ...foxPlan, precision, loras: [lora] },
  { ...foxPlan, precision, variant: 'schnell' },
])

const roomy = await load(createBudget(Number.POSITIVE_INFINITY))
afterAll(async () => {
  await roomy.dev.release()
  await roomy.schnell.release()
})
const expected: Uint8Array[] = []
for (const plan of plans) expected.push(await draw(roomy, plan))

test('with room for one transformer the pictures are those of a machine with room for all', async () => {
  const { transformers, decoder, shapes } = roomy.dev
  const { bf16, fp8 } = transformers
  const capacity = Math.max(bf16.bytes, fp8.bytes) + decoder.bytes + drawBytes(shapes, foxPlan.size)
  const watched = watch(createBudget(capacity))
  const models = await load(watched.budget)
  onTestFinished(async () => {
    await models.dev.release()
    await models.schnell.release()
  })
  for (const [i, plan] of [...plans.entries(), ...[...plans.entries()].reverse()])
    expect(await draw(models, plan), `plan ${i}`).toEqual(expected[i])
  expect(watched.evicted()).toEqual(expect.objectContaining({ 'dev bf16': expect.any(Number) }))
  expect(watched.peak()).toBeLessThanOrEqual(capacity)
})

test('a machine that has no room for a picture says so when it loads', async () => {
  const budget = createBudget(1000)
  await expect(load(budget)).rejects.toThrow(
    /^Expected a prediction that fits into 1.0 kB of memory but it needs \d+\.\d kB: dev T5 /,
  )
  expect(budget.residents()).toEqual([])
})

/** Keeps book of what goes, and of the most that is there at a time. */
function watch(budget: Budget) {
  const evicted: Record<string, number> = {}
  let peak = 0
  const admit: Budget['admit'] = (demand) => {
    const admission = budget.admit(demand)
    for (const { name } of admission.evict) evicted[name] = (evicted[name] ?? 0) + 1
    const bytes = budget.residents().reduce((sum, part) => sum + part.bytes, 0)
    peak = Math.max(peak, bytes + demand.runBytes)
    return admission
  }
  return { budget: { ...budget, admit }, evicted: () => evicted, peak: () => peak }
}
