/** What the safety checker adds to a prediction's log, in the reference's words (replicate-contract §1.8). */
import type { GenerationEvent } from '../engine/protocol.js'
import type { GenerationPlan } from '../plan/plan.js'

/** The log line of an engine event, if the safety checker has one for it; the last line is the sum. */
export function createSafetyNarrator({
  checkSafety,
  count,
}: Pick<GenerationPlan, 'checkSafety' | 'count'>): (event: GenerationEvent) => string | undefined {
  let safeImages = 0
  return (event) => {
    if (event.kind === 'image') safeImages++
    if (event.kind === 'flagged') return `NSFW content detected in image ${event.image}`
    if (event.kind === 'safetyError') return `Error running safety checker: ${event.reason}`
    if (event.kind !== 'done' || !checkSafety) return undefined
    return `Total safe images: ${safeImages} out of ${count}`
  }
}
