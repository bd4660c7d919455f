/**
 * The log of a prediction in the lines and the order of the reference: clients read the seed and the
 * progress from it (replicate-contract §1.9).
 */
import type { GenerationEvent } from '../engine/protocol.js'
import { type GenerationPlan, stepsToRun } from '../plan/plan.js'
import { progressLine } from './progressBar.js'
import { createSafetyNarrator } from './safetyLines.js'

/**
 * Tells the lines that an event adds, with LoRAs under the names that `withNames` gives them. Steps
 * count over all pictures of the prediction.
 */
export function createNarrator(
  plan: GenerationPlan,
  withNames: (text: string) => string,
): (event: GenerationEvent) => string[] {
  const narrateSafety = createSafetyNarrator(plan)
  let startedAtMs = performance.now()
  return (event) => {
    switch (event.kind) {
      case 'adapted':
        startedAtMs = performance.now()
        return [
          ...loraLines(plan, event.seconds),
          ...event.notes.map(withNames),
          ...openingLines(plan),
        ]
      case 'progress': {
        const done = event.image * event.steps + event.step
        const seconds = (performance.now() - startedAtMs) / 1000
        return [progressLine(done, event.steps * plan.count, seconds)]
      }
      default: {
        const line = narrateSafety(event)
        return line === undefined ? [] : [line]
      }
    }
  }
}

const loraLines = ({ loras }: GenerationPlan, seconds: number) =>
  loras.length > 0 ? [`Loaded LoRAs in ${seconds.toFixed(2)}s`] : []

const openingLines = (plan: GenerationPlan): string[] => [
  ...(plan.precision === 'fp8' ? ['running quantized prediction'] : []),
  `Using seed: ${plan.seed}`,
  `Prompt: ${plan.prompt}`,
  ...modeLines(plan),
  progressLine(0, stepsToRun(plan) * plan.count, 0),
]

function modeLines({ start, size }: GenerationPlan): string[] {
  if (start.kind === 'noise') return ['[!] txt2img mode']
  const { width, height } = start.image.size
  const stored = `${width}x${height}`
  return [
    `Input image size: ${stored}`,
    `[!] Resizing input image from ${stored} to ${size.width}x${size.height}`,
    start.kind === 'image' ? '[!] img2img mode' : '[!] inpaint mode',
  ]
}
