import type { GenerationPlan } from '../../../src/plan/plan.js'

/** A small picture by the tiny random-weight checkpoints; tests change what they are about. */
export const foxPlan: GenerationPlan = {
  variant: 'dev',
  precision: 'bf16',
  prompt: 'a red fox',
  size: { width: 96, height: 64 },
  start: { kind: 'noise' },
  loras: [],
  steps: 4,
  firstStep: 0,
  guidance: 3.5,
  seed: 7,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'png', quality: 80 },
  checkSafety: false,
  notes: [],
}
