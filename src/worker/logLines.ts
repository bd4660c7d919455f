/**
 * The log of a prediction in the lines and the order of the reference: clients read the seed and
 * the progress from it (C-1.8, C-1.9).
 */
import type { GenerationEvent } from '../engine/protocol.js'
import { type PixelSize, stepsToRun } from '../plan/plan.js'
import type { ValidDraft } from '../plan/planGeneration.js'

type Planned = Extract<GenerationEvent, { kind: 'planned' }>

/**
 * Gives the lines that an engine event adds to the log of a draft with `loraCount` LoRAs. Steps
 * count over all images of the prediction.
 */
export function createLogLines(
  draft: ValidDraft,
  loraCount: number,
): (event: GenerationEvent) => string[] {
  const safetyLine = createSafetyLines(draft)
  let startedAtMs = performance.now()
  let planned: Planned | undefined
  return (event) => {
    switch (event.kind) {
      case 'planned':
        planned = event
        return []
      case 'lorasReady':
        startedAtMs = performance.now()
        return [
          ...(loraCount > 0 ? [`Loaded LoRAs in ${event.seconds.toFixed(2)}s`] : []),
          ...event.notes,
          ...openingLines(draft, planned),
        ]
      case 'progress': {
        const done = event.image * event.steps + event.step
        const seconds = (performance.now() - startedAtMs) / 1000
        return [progressLine(done, event.steps * draft.count, seconds)]
      }
      default: {
        const line = safetyLine(event)
        return line === undefined ? [] : [line]
      }
    }
  }
}

const openingLines = (draft: ValidDraft, planned: Planned | undefined): string[] => [
  ...(draft.precision === 'fp8' ? ['running quantized prediction'] : []),
  `Using seed: ${draft.seed}`,
  `Prompt: ${draft.prompt}`,
  ...modeLines(draft, planned),
  progressLine(0, stepsToRun(draft) * draft.count, 0),
]

function modeLines({ start }: ValidDraft, planned: Planned | undefined): string[] {
  if (start === 'noise' || !planned?.imageSize) return ['[!] txt2img mode']
  const stored = describeSize(planned.imageSize)
  return [
    `Input image size: ${stored}`,
    `[!] Resizing input image from ${stored} to ${describeSize(planned.size)}`,
    start === 'image' ? '[!] img2img mode' : '[!] inpaint mode',
  ]
}

const describeSize = ({ width, height }: PixelSize) => `${width}x${height}`

/** The line of an event, if the safety checker has one for it; the last line is the sum. */
export function createSafetyLines({
  checkSafety,
  count,
}: Pick<ValidDraft, 'checkSafety' | 'count'>): (event: GenerationEvent) => string | undefined {
  let safeImages = 0
  return (event) => {
    if (event.kind === 'image') safeImages++
    if (event.kind === 'flagged') return `NSFW content detected in image ${event.image}`
    if (event.kind === 'safetyError') return `Error running safety checker: ${event.reason}`
    if (event.kind !== 'done' || !checkSafety) return undefined
    return `Total safe images: ${safeImages} out of ${count}`
  }
}

const barWidth = 10
const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const

/**
 * Progress in the form of tqdm, such as ` 21%|██▏       | 6/28 [00:00<00:02,  9.15it/s]`.
 * Replicate's clients read the last line that matches `^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)`.
 */
export function progressLine(done: number, total: number, seconds: number): string {
  const percent = String(Math.round((100 * done) / total)).padStart(3)
  const bar = drawBar(done / total)
  return `${percent}%|${bar}| ${done}/${total} [${describeRate(done, total, seconds)}]`
}

function drawBar(fraction: number): string {
  const filled = Math.floor(fraction * barWidth * 8)
  return ('█'.repeat(Math.floor(filled / 8)) + eighths[filled % 8]).padEnd(barWidth)
}

function describeRate(done: number, total: number, seconds: number): string {
  if (done === 0 || seconds === 0) return `${clock(seconds)}<?, ?it/s`
  const rate = done / seconds
  const text =
    rate >= 1 ? `${rate.toFixed(2).padStart(5)}it/s` : `${(1 / rate).toFixed(2).padStart(5)}s/it`
  return `${clock(seconds)}<${clock((total - done) / rate)}, ${text}`
}

function clock(seconds: number): string {
  const whole = Math.floor(seconds)
  const pad = (value: number) => String(value).padStart(2, '0')
  const hours = Math.floor(whole / 3600)
  const rest = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`
  return hours > 0 ? `${hours}:${rest}` : rest
}
