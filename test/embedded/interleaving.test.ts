/** Variants, precisions and LoRA sets in any order: every plan gives the bytes that it gives alone. */
import { afterAll, expect, test } from 'vitest'
import { readConfig } from '../../src/config/config.js'
import { loadModels, type Models } from '../../src/engine/models/models.js'
import type { GenerationPlan, Variant } from '../../src/plan/plan.js'
import { drawPng, sketch } from './studio.js'
import { styleOf } from './styles.js'

const { checkpoints } = readConfig({})
const load = (variant: Variant) => loadModels(variant, checkpoints[variant], { threads: 1 })

const shadow = (scale: number) => ({ name: 'lora', path: styleOf('fofr/shxdo').path, scale })
const warm = (scale: number) => ({ name: 'lora', path: styleOf('jose0012kjo').path, scale })
const quick = { ...sketch, size: { width: 128, height: 128 }, steps: 2 }

const plans: readonly GenerationPlan[] = [
  quick,
  { ...quick, precision: 'fp8' },
  { ...quick, loras: [shadow(1)] },
  { ...quick, loras: [shadow(0.5)] },
  { ...quick, loras: [shadow(0.5)], precision: 'fp8' },
  { ...quick, loras: [warm(1), shadow(-1)] },
  { ...quick, loras: [warm(1), shadow(-1)], seed: 3, prompt: 'a large blue star' },
  { ...quick, variant: 'schnell' },
  { ...quick, variant: 'schnell', precision: 'fp8' },
  { ...quick, variant: 'schnell', loras: [warm(1)] },
]

const loaded: Models[] = []
afterAll(async () => {
  for (const models of loaded) await models.release()
})

// A linear congruential generator, so that a failure can be repeated.
function* randomIndices(count: number, below: number) {
  let state = 11
  for (let i = 0; i < count; i++) {
    state = (1664525 * state + 1013904223) % 2 ** 32
    yield Math.floor((state / 2 ** 32) * below)
  }
}

test('twenty-four pictures of ten plans in random order', async () => {
  const alone: Uint8Array[] = []
  for (const plan of plans) {
    const models = await load(plan.variant)
    alone.push(await drawPng(models, plan))
    await models.release()
  }
  expect(new Set(alone.map((png) => Buffer.from(png).toString('base64'))).size).toBe(plans.length)

  const models = { dev: await load('dev'), schnell: await load('schnell') }
  loaded.push(models.dev, models.schnell)
  for (const index of randomIndices(24, plans.length)) {
    const plan = plans[index]!
    expect(await drawPng(models[plan.variant], plan), `plan ${index}`).toEqual(alone[index])
  }
})
