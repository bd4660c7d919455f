import { describe, expect, test } from 'vitest'
import { createBudget, type Demand } from '../../../src/engine/models/memoryBudget.js'

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

const part = (name: Name) => ({ name, bytes: sizes[name] * GB })
const shared: readonly Name[] = ['T5', 'CLIP', 'VAE']

/** Demands one after the other; what each evicts and loads. */
function serve(capacityGB: number, demands: readonly (readonly Name[])[], runGB = 2) {
  const budget = createBudget(capacityGB * GB)
  const decisions = demands.map((names) => {
    const demand = { parts: names.map(part), runBytes: runGB * GB }
    const { evict, load } = budget.admit(demand)
    budget.leave(demand)
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
    'text encoders make room for the transformer',
    [shared, ['dev fp8', 'CLIP', 'VAE']],
    [[], ['T5']],
  ],
] as const)('with %d GB %s', (capacity, _, demands, evictions) => {
  test(`${demands.map((names) => names[0]).join(', ')}`, () => {
    const { decisions } = serve(capacity, demands)
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

test('no order of demands exceeds the capacity or evicts what is needed', () => {
  const names = Object.keys(sizes) as Name[]
  const budget = createBudget(45 * GB)
  let state = 1
  const random = (below: number) => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((state / 2 ** 32) * below)
  }
  const loaded = new Set<string>()
  for (let i = 0; i < 2000; i++) {
    const parts = [part(names[random(4)]!), ...shared.filter(() => random(2) === 0).map(part)]
    const runBytes = random(8) * GB
    const demand = { parts, runBytes }
    const { evict, load } = budget.admit(demand)
    budget.leave(demand)
    for (const { name } of evict) {
      expect(loaded.delete(name)).toBe(true)
      expect(parts.map((each) => each.name)).not.toContain(name)
    }
    for (const { name } of load) {
      expect(loaded.has(name)).toBe(false)
      loaded.add(name)
    }
    for (const { name } of parts) expect(loaded.has(name)).toBe(true)
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
  const budget = createBudget(24 * GB)
  serveOne(budget, { parts: [part('dev fp8')], runBytes: 0 })
  expect(() => budget.admit({ parts: dev.map(part), runBytes: 3.1 * GB })).toThrow(
    'Expected a prediction that fits into 24.0 GB of memory but it needs 36.9 GB: dev bf16 23.8 GB, T5 9.5 GB, CLIP 300.0 MB, VAE 200.0 MB, its run 3.1 GB',
  )
  expect(budget.residents()).toEqual([part('dev fp8')])
})

test('a part that was dropped is loaded when it is next needed, and what is of no use without it', () => {
  const budget = createBudget(80 * GB)
  const base = { ...part('dev bf16'), name: 'base', of: 'dev bf16' }
  serveOne(budget, { parts: [part('dev bf16'), base], runBytes: 0 })
  expect(budget.drop('dev bf16')).toMatchObject([{ name: 'base' }])
  expect(serveOne(budget, { parts: [base], runBytes: 0 }).load).toEqual([base])
})

test('what is in use stays, whatever else is demanded meanwhile', () => {
  const budget = createBudget(40 * GB)
  const drawing: Demand = { parts: [part('dev bf16')], runBytes: 5 * GB }
  serveOne(budget, { parts: [part('T5')], runBytes: 0 })
  budget.admit(drawing)
  expect(serveOne(budget, { parts: [part('CLIP')], runBytes: 0 }).evict).toEqual([])
  const { evict } = serveOne(budget, { parts: [part('VAE')], runBytes: 2 * GB })
  expect(evict).toMatchObject([{ name: 'T5' }])
  expect(() => budget.admit({ parts: [part('schnell fp8')], runBytes: 0 })).toThrow(
    'Expected a prediction that fits into 40.0 GB of memory but it needs 44.0 GB: dev bf16 23.8 GB, schnell fp8 15.2 GB, its run 5.0 GB',
  )
  budget.leave(drawing)
  expect(serveOne(budget, { parts: [part('schnell fp8')], runBytes: 0 }).evict).toEqual([])
})

describe('what is useful and not necessary', () => {
  const base = { ...part('dev bf16'), name: 'base', of: 'dev bf16' }
  const names = (parts: readonly { name: string }[] = []) => parts.map(({ name }) => name)

  test('comes where there is room, and goes first when it was used first', () => {
    const budget = createBudget(80 * GB)
    serveOne(budget, { parts: [part('dev bf16')], runBytes: 0 })
    expect(names(budget.offer(base)?.load)).toEqual(['base'])
    serveOne(budget, { parts: [part('dev bf16')], runBytes: 0 })
    expect(names(budget.offer(base)?.load)).toEqual([])
    serveOne(budget, { parts: [part('dev bf16')], runBytes: 0 })
    const { evict } = serveOne(budget, { parts: dev.map(part), runBytes: 25 * GB })
    expect(names(evict)).toEqual(['base'])
  })

  test('drives out only what has not been used since it was last offered', () => {
    const budget = createBudget(60 * GB)
    const draw = (name: Name) => serveOne(budget, { parts: [part(name)], runBytes: 0 })
    draw('schnell bf16')
    draw('dev bf16')
    expect(budget.offer(base)).toBeUndefined()
    draw('schnell bf16')
    draw('dev bf16')
    expect(budget.offer(base)).toBeUndefined()
    draw('dev bf16')
    expect(names(budget.offer(base)?.evict)).toEqual(['schnell bf16'])
  })

  test('goes with what it belongs to, before it', () => {
    const budget = createBudget(60 * GB)
    serveOne(budget, { parts: [part('dev bf16')], runBytes: 0 })
    budget.offer(base)
    const { evict } = serveOne(budget, { parts: schnell.map(part), runBytes: 20 * GB })
    expect(names(evict)).toEqual(['base', 'dev bf16'])
  })
})

function serveOne(budget: ReturnType<typeof createBudget>, demand: Demand) {
  const admission = budget.admit(demand)
  budget.leave(demand)
  return admission
}
