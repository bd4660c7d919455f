/** The published rules of `lora_scale`, `extra_lora` and `go_fast`; what the reference does else is noted. */
import { describe, expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import type { LoraRef } from '../../src/plan/loraRef.js'
import { draftPlan, finishPlan, planWeights } from '../../src/plan/planGeneration.js'

const custom = { aspect_ratio: 'custom', width: 512, height: 512 }

function draft(fields: object, roles: readonly LoraRef['role'][] = [], goFastLoraMultiplier = 1.5) {
  const input = FluxInput.parse({ prompt: '', seed: 1, disable_safety_checker: true, ...fields })
  const loras = roles.map((role) => ({ role }))
  const settings = { noise: 'torch-cpu', safetyChecker: false, goFastLoraMultiplier } as const
  const drafted = draftPlan(input, loras, settings)
  if (drafted.kind === 'invalid') throw drafted.error
  return drafted
}

const file = (scale: number) => ({ name: 'a', path: '/loras/a.safetensors', digest: '1', scale })

describe('the scale of a LoRA file', () => {
  const scaleOf = (fields: object, scale: number, multiplier?: number) =>
    finishPlan(draft(fields, ['main'], multiplier), { loras: [file(scale)] }).loras[0]!.scale

  test.each([
    // The reference's bf16 path would apply 0.5 as 0.25, and −1 as 1.
    ['is linear in bf16', {}, 0.5, 0.5],
    ['may be negative', {}, -1, -1],
    // The reference multiplies the main scale only, against both descriptions.
    ['is multiplied by 1.5 in fp8', { go_fast: true }, 2, 3],
    ['is not multiplied where a custom size means bf16', { go_fast: true, ...custom }, 1, 1],
  ])('%s', (_, fields, scale, expected) => {
    expect(scaleOf(fields, scale)).toBe(expected)
  })

  test('stays as it is with a multiplier of 1', () => {
    expect(scaleOf({ go_fast: true }, 0.7, 1)).toBe(0.7)
  })

  test('is the same in what is prefetched', () => {
    const fast = draft({ go_fast: true }, ['main'])
    const loras = [file(0.5), file(-1)]
    expect(planWeights(fast, loras)).toEqual({
      variant: 'dev',
      precision: 'fp8',
      loras: finishPlan(fast, { loras }).loras,
    })
  })
})

describe('an extra LoRA without a main one', () => {
  const note = (name: string, scale: string) =>
    `extra_lora_weights ${name} were found, and lora_weights were None! This shouldn't happen. ` +
    `Setting lora_weights to ${name} and lora_scale to extra_lora_scale: ${scale} and running.`

  test("is announced in the reference's words, with the scale before fp8 multiplies it", () => {
    const input = { extra_lora: 'fofr/shxdo-v2', go_fast: true }
    expect(draft(input, ['extra']).notes).toEqual([note('fofr/shxdo-v2', '1.0')])
    const scaled = { extra_lora: 'fofr/shxdo-v2', extra_lora_scale: 0.75 }
    expect(draft(scaled, ['extra']).notes).toEqual([note('fofr/shxdo-v2', '0.75')])
    expect(draft(input, ['main', 'extra']).notes).toEqual([])
    expect(draft({}, ['main']).notes).toEqual([])
  })

  test.each([
    [
      'https://example.org/a.safetensors?token=s3cret',
      'https://example.org/a.safetensors?token=***',
    ],
    ['https://me:s3cret@example.org/a.safetensors', 'https://***@example.org/a.safetensors'],
    ['data:application/x-tar;base64,AAAA', 'data:application/x-tar…'],
  ])('never shows what a log must not: %s', (reference, name) => {
    expect(draft({ extra_lora: reference }, ['extra']).notes).toEqual([note(name, '1.0')])
  })
})
