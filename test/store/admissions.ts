/** Predictions as the stores' tests admit them. */
import { FluxInput } from '../../src/contract/input.js'
import type { Prediction } from '../../src/contract/prediction.js'
import { createPrediction, type PredictionOrigin } from '../../src/predictions/prediction.js'
import type { Admission } from '../../src/store/predictionStore.js'

export const describePrediction = (
  id: string,
  changes: Partial<PredictionOrigin> = {},
): Prediction =>
  createPrediction({
    id,
    surface: 'replicate',
    model: 'fluxd/flux',
    version: '0'.repeat(64),
    input: { prompt: 'p' },
    createdAt: new Date('2026-01-01T00:00:00.123Z'),
    streamToken: `token-${id}`,
    ...changes,
  })

/** The admission of `describePrediction(id, prediction)`. */
export function admissionOf(
  id: string,
  {
    prediction = {},
    ...changes
  }: Partial<Omit<Admission, 'prediction'>> & {
    readonly prediction?: Partial<PredictionOrigin>
  } = {},
): Admission {
  const described = describePrediction(id, prediction)
  return {
    prediction: described,
    work: { input: FluxInput.parse({ seed: 5, ...described.input }), loras: [] },
    priority: 0,
    cost: { kind: 'dev bf16', tokens: 4096, stepTokens: 28 * 4096 },
    loraSet: '',
    maxWaiting: 1_000_000,
    ...changes,
  }
}
