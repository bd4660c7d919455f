import { expect, test } from 'vitest'
import { createNarrator } from '../../src/worker/logLines.js'
import { foxPlan } from './engine/foxPlan.js'

test('the log names LoRAs as the client did, and what of them is not merged', () => {
  const plan = { ...foxPlan, loras: [{ path: '/store/ab12', scale: 1 }] }
  const narrate = createNarrator(plan, (text) => text.replaceAll('/store/ab12', 'fofr/fox'))
  const notes = ['/store/ab12: 3 of its tensors are not merged, the first is lora_te2_x']
  expect(narrate({ kind: 'adapted', id: '1', seconds: 0.25, notes }).slice(0, 3)).toEqual([
    'Loaded LoRAs in 0.25s',
    'fofr/fox: 3 of its tensors are not merged, the first is lora_te2_x',
    'Using seed: 7',
  ])
})
