import { describe, expect, test } from 'vitest'
import { createMemoryBudget, type MemoryRequest } from '../../../src/engine/models/memoryBudget.js'

const GB = 1e9
// Sizes of the published checkpoints.
const sizes = {
  'dev bf16': 23.8,
  'dev fp8': 15.2,
  'schnell bf16': 23.8,
  'schnell fp8': 15.2,
  T5: 9.5,
  CLIP: 0.3,
  VAE: 0.2,
} as const
type Name = keyof typeof sizes

const model = (name: Name) => ({ name, bytes: sizes[name] * GB })
const shared: readonly Name[] = ['T5', 'CLIP', 'VAE']

/** Requests one after the other; what each evicts and loads. */
function serve(capacityGB: number, requests: readonly (readonly Name[])[], runGB = 2) {
  const budget = createMemoryBudget(capacityGB * GB)
  const decisions = requests.map((names) => {
    const request = { models: names.map(model), runBytes: runGB * GB }
    const { evict, load } = budget.acquire(request)
    budget.release(request)
    return { evict: evict.map(({ name }) => name), load: load.map(({ name }) => name) }
  })
  return { decisions, residents: budget.residents().map(({ name }) => name) }
}

const dev: readonly Name[] = ['dev bf16', ...shared]
const schnell: readonly Name[] = ['schnell bf16', ...shared]
const devFp8: readonly Name[] = ['dev fp8', ...shared]
const schnellFp8: readonly Name[] = ['schnell fp8', ...shared]

describe.each([
  [80, 'both variants stay', [dev, schnell, dev], [[], [], []]],
  [
    80,
    'a third precision drives out the one used longest ago',
    [dev, schnell, devFp8],
    [[], [], []],
  ],
  [
    70,
    'a third precision drives out the one used longest ago',
    [dev, schnell, devFp8],
    [[], [], ['dev bf16']],
  ],
  [70, 'use, not loading, counts', [dev, schnell, dev, devFp8], [[], [], [], ['schnell bf16']]],
  [40, 'variants take turns', [dev, schnell, dev], [[], ['dev bf16'], ['schnell bf16']]],
  [45, 'both fp8 variants stay', [devFp8, schnellFp8, devFp8], [[], [], []]],
  [
    24,
    'text encoders are evicted for the transformer',
    [shared, ['dev fp8', 'CLIP', 'VAE']],
    [[], ['T5']],
  ],
] as const)('with %d GB %s', (capacity, _, requests, evictions) => {
  test(`${requests.map((names) => names[0]).join(', ')}`, () => {
    const { decisions } = serve(capacity, requests)
    expect(decisions.map(({ evict }) => evict)).toEqual(evictions)
  })
})

test('what is resident is not loaded again', () => {
  const { decisions, residents } = serve(80, [dev, schnell, dev])
  expect(decisions.map(({ load }) => load)).toEqual([dev, ['schnell bf16'], []])
  expect(residents).toEqual(['schnell bf16', ...dev])
})

test('a small part does not go where a larger one that must go anyway makes enough room', () => {
  // VAE is the least recently used, but evicting it would not help.
  const { decisions } = serve(36, [['VAE'], ['dev bf16', 'CLIP'], ['schnell bf16', 'T5']])
  expect(decisions[2]!.evict).toEqual(['dev bf16'])
})

test('no order of requests exceeds the capacity or evicts what is needed', () => {
  const names = Object.keys(sizes) as Name[]
  const budget = createMemoryBudget(45 * GB)
  let state = 1
  const random = (below: number) => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((state / 2 ** 32) * below)
  }
  const loaded = new Set<string>()
  for (let i = 0; i < 2000; i++) {
    const models = [model(names[random(4)]!), ...shared.filter(() => random(2) === 0).map(model)]
    const runBytes = random(8) * GB
    const request = { models, runBytes }
    const { evict, load } = budget.acquire(request)
    budget.release(request)
    for (const { name } of evict) {
      expect(loaded.delete(name)).toBe(true)
      expect(models.map((each) => each.name)).not.toContain(name)
    }
    for (const { name } of load) {
      expect(loaded.has(name)).toBe(false)
      loaded.add(name)
    }
    for (const { name } of models) expect(loaded.has(name)).toBe(true)
    const bytes = [...loaded].reduce((sum, name) => sum + sizes[name as Name] * GB, runBytes)
    expect(bytes).toBeLessThanOrEqual(45 * GB)
    expect(
      budget
        .residents()
        .map(({ name }) => name)
        .sort(),
    ).toEqual([...loaded].sort())
  }
})

test('what could not be served alone is refused with the numbers, and changes nothing', () => {
  const budget = createMemoryBudget(24 * GB)
  serveOne(budget, { models: [model('dev fp8')], runBytes: 0 })
  expect(() => budget.acquire({ models: dev.map(model), runBytes: 3.1 * GB })).toThrow(
    'Expected a prediction that fits into 24.0 GB of memory but it needs 36.9 GB: dev bf16 23.8 GB, T5 9.5 GB, CLIP 300.0 MB, VAE 200.0 MB, its run 3.1 GB',
  )
  expect(budget.residents()).toEqual([model('dev fp8')])
})

test('a part that was dropped is loaded when it is next needed, and what is of no use without it', () => {
  const budget = createMemoryBudget(80 * GB)
  const base = { ...model('dev bf16'), name: 'base', of: 'dev bf16' }
  serveOne(budget, { models: [model('dev bf16'), base], runBytes: 0 })
  expect(budget.forget('dev bf16')).toMatchObject([{ name: 'base' }])
  expect(serveOne(budget, { models: [base], runBytes: 0 }).load).toEqual([base])
})

test('what is in use stays, whatever else is requested meanwhile', () => {
  const budget = createMemoryBudget(40 * GB)
  const generation: MemoryRequest = { models: [model('dev bf16')], runBytes: 5 * GB }
  serveOne(budget, { models: [model('T5')], runBytes: 0 })
  budget.acquire(generation)
  expect(serveOne(budget, { models: [model('CLIP')], runBytes: 0 }).evict).toEqual([])
  const { evict } = serveOne(budget, { models: [model('VAE')], runBytes: 2 * GB })
  expect(evict).toMatchObject([{ name: 'T5' }])
  expect(() => budget.acquire({ models: [model('schnell fp8')], runBytes: 0 })).toThrow(
    'Expected a prediction that fits into 40.0 GB of memory but it needs 44.0 GB: dev bf16 23.8 GB, schnell fp8 15.2 GB, its run 5.0 GB',
  )
  budget.release(generation)
  expect(serveOne(budget, { models: [model('schnell fp8')], runBytes: 0 }).evict).toEqual([])
})

describe('what is useful and not necessary', () => {
  const base = { ...model('dev bf16'), name: 'base', of: 'dev bf16' }
  const names = (models: readonly { name: string }[] = []) => models.map(({ name }) => name)

  test('comes where there is room, and goes first when it was used first', () => {
    const budget = createMemoryBudget(80 * GB)
    serveOne(budget, { models: [model('dev bf16')], runBytes: 0 })
    expect(names(budget.acquireOptional(base)?.load)).toEqual(['base'])
    serveOne(budget, { models: [model('dev bf16')], runBytes: 0 })
    expect(names(budget.acquireOptional(base)?.load)).toEqual([])
    serveOne(budget, { models: [model('dev bf16')], runBytes: 0 })
    const { evict } = serveOne(budget, { models: dev.map(model), runBytes: 25 * GB })
    expect(names(evict)).toEqual(['base'])
  })

  test('drives out only what has not been used since it was last offered', () => {
    const budget = createMemoryBudget(60 * GB)
    const generate = (name: Name) => serveOne(budget, { models: [model(name)], runBytes: 0 })
    generate('schnell bf16')
    generate('dev bf16')
    expect(budget.acquireOptional(base)).toBeUndefined()
    generate('schnell bf16')
    generate('dev bf16')
    expect(budget.acquireOptional(base)).toBeUndefined()
    generate('dev bf16')
    expect(names(budget.acquireOptional(base)?.evict)).toEqual(['schnell bf16'])
  })

  test('goes with what it belongs to, before it', () => {
    const budget = createMemoryBudget(60 * GB)
    serveOne(budget, { models: [model('dev bf16')], runBytes: 0 })
    budget.acquireOptional(base)
    const { evict } = serveOne(budget, { models: schnell.map(model), runBytes: 20 * GB })
    expect(names(evict)).toEqual(['base', 'dev bf16'])
  })
})

function serveOne(budget: ReturnType<typeof createMemoryBudget>, request: MemoryRequest) {
  const plan = budget.acquire(request)
  budget.release(request)
  return plan
}
