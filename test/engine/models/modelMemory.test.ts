/** What is loaded together, what replaces what, and what failing costs: models without sessions. */
import { expect, test } from 'vitest'
import {
  createModelMemory,
  type ModelOptions,
  type Network,
} from '../../../src/engine/models/memory.js'
import { createMemoryBudget } from '../../../src/engine/models/memoryBudget.js'

function open(capacity: number) {
  const log: string[] = []
  const warnings: string[] = []
  const budget = createMemoryBudget(capacity)
  const memory = createModelMemory(budget, (message) => warnings.push(message))
  const manage = (name: string, options: Partial<ModelOptions<Network>> = {}) =>
    memory.manage<Network>({
      name,
      bytes: 1,
      async load() {
        log.push(`+${name}`)
        return { sessions: [] }
      },
      async unload() {
        log.push(`-${name}`)
      },
      ...options,
    })
  return { memory, budget, manage, log, warnings }
}

const failing = async () => {
  throw new Error('out of memory')
}

test('a model of a slot unloads the one before it, and only that', async () => {
  const { memory, manage, log } = open(9)
  const base = manage('base')
  const one = manage('one', { slot: 'merged' })
  const two = manage('two', { slot: 'merged' })
  for (const model of [base, one, one, two]) (await memory.acquire([model]))()
  expect(log).toEqual(['+base', '+one', '-one', '+two'])
  await memory.unloadSlot('merged')
  expect([base, one, two].map((model) => model.isLoaded())).toEqual([true, false, false])
})

test('a model is described anew under its name and stays loaded', async () => {
  const { memory, manage, log } = open(9)
  for (let i = 0; i < 2; i++) (await memory.acquire([manage('one', { slot: 'merged' })]))()
  expect(log).toEqual(['+one'])
})

test('a model that cannot be loaded is no resident, and the others go on', async () => {
  const { memory, manage, budget } = open(9)
  const broken = manage('broken', { load: failing })
  await expect(memory.acquire([manage('sound'), broken])).rejects.toThrow('out of memory')
  expect(budget.residents()).toMatchObject([{ name: 'sound' }])
  expect(() => broken.network()).toThrow('Expected broken to be loaded but it is not')
})

test('an optional model that cannot be loaded sends a warning', async () => {
  const { memory, manage, budget, warnings } = open(9)
  await memory.acquireOptional(manage('copy', { load: failing }))
  expect(warnings).toEqual([
    'copy could not be loaded; predictions are slower without it: Error: out of memory',
  ])
  expect(budget.residents()).toEqual([])
})

test('an optional model without free memory is left out without a word', async () => {
  const { memory, manage, warnings, log } = open(1)
  const release = await memory.acquire([manage('base')])
  await memory.acquireOptional(manage('copy'))
  expect([log, warnings]).toEqual([['+base'], []])
  release()
})
