/** The weights that a prediction runs on, as a key: an executor keeps what it has in place. */
import { createHash } from 'node:crypto'
import type { PlanDraft } from '../plan/planGeneration.js'
import type { PredictionRequest } from './request.js'

/**
 * Equal for predictions that need no switch between them: the same network and precision with the
 * same LoRAs in the same order at the same scales. Hexadecimal.
 */
export function loraSetOf(
  { input, loras }: Pick<PredictionRequest, 'input' | 'loras'>,
  draft: PlanDraft,
) {
  const precision = draft.kind === 'valid' ? draft.precision : undefined
  const files = loras.map(({ source, sha256, scale }) => [sha256 ?? source, scale])
  return createHash('sha256')
    .update(JSON.stringify([input.model, precision, files]))
    .digest('hex')
    .slice(0, 32)
}
