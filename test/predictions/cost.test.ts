import { expect, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import { draftPlan } from '../../src/plan/planGeneration.js'
import { addCost, draftCost, noCost } from '../../src/predictions/cost.js'

const settings = { noise: 'torch-cpu', goFastLoraMultiplier: 1, safetyChecker: false } as const
const foresee = (fields: object) => {
  const input = FluxInput.parse({ prompt: '', ...fields })
  return draftCost(draftPlan(input, [], settings), input.model)
}

test.each([
  [{ num_inference_steps: 28 }, 'dev bf16', 4096, 28],
  [{ megapixels: '0.25', num_outputs: 3, num_inference_steps: 10 }, 'dev bf16', 3 * 1024, 10],
  [{ model: 'schnell', go_fast: true, num_inference_steps: 4 }, 'schnell fp8', 4096, 4],
  // Its size is not known yet; its strength leaves out two steps.
  [{ image: 'http://a.example/', num_inference_steps: 10 }, 'dev bf16', 4096, 8],
  // This one will fail.
  [{ aspect_ratio: 'custom' }, 'dev bf16', 0, 28],
])('the cost of %j is of kind %s: %d tokens in %d steps', (input, kind, tokens, steps) => {
  expect(foresee(input)).toEqual({ kind, tokens, stepTokens: steps * tokens })
})

test('costs add up kind by kind', () => {
  const dev = { kind: 'dev bf16', tokens: 1, stepTokens: 10 } as const
  const fast = { kind: 'dev fp8', tokens: 2, stepTokens: 20 } as const
  const load = addCost(addCost(noCost, dev), fast)
  expect(addCost(load, dev)).toEqual({
    'dev bf16': { tokens: 2, stepTokens: 20 },
    'dev fp8': { tokens: 2, stepTokens: 20 },
  })
})
