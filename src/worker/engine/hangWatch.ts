/**
 * Notices an engine that hangs: one that reports nothing for longer than what it does can take. A
 * process in a stuck driver call does not answer a heartbeat either, as its runs hold the thread;
 * so the limit follows from the stage and from how long steps take.
 */
import type { GenerationEvent } from '../../engine/protocol.js'

/** Seconds, from what was measured before. */
export type ExpectedSeconds = {
  readonly step: number
  /** Everything beside the steps of one image. */
  readonly rest: number
}

export type HangWatch = {
  /** The command was sent. */
  readonly sent: () => void
  /** An event came; `isLoaded`: this process has the variant's weights. */
  readonly heard: (event: GenerationEvent, isLoaded: boolean) => void
  /** A cancel was sent: the engine ends its run within a step. */
  readonly canceled: () => void
  readonly stop: () => void
}

const floorMs = 30_000
// Some stages have no estimate: what was never measured on this machine, and reading weights.
const unmeasuredMs = 10 * 60_000
const loadingMs = 30 * 60_000
/** How much longer than expected a stage may take. */
const tolerance = 10

/** Calls `onHang` with a reason that completes the sentence "the engine process …". */
export function createHangWatch(
  onHang: (reason: string) => void,
  expected?: ExpectedSeconds,
  scale = 1,
): HangWatch {
  let timer: NodeJS.Timeout | undefined
  let stepAtMs: number | undefined
  let stepMs = expected && 1000 * expected.step

  function allow(ms: number): void {
    clearTimeout(timer)
    const limitMs = Math.max(floorMs, ms) * scale
    timer = setTimeout(
      () => onHang(`has reported nothing for ${Math.round(limitMs / 1000)} seconds`),
      limitMs,
    )
  }

  /** The steps of this run count more than those of earlier ones. */
  function heardStep(): void {
    const nowMs = performance.now()
    if (stepAtMs !== undefined) stepMs = Math.max(nowMs - stepAtMs, stepMs ?? 0)
    stepAtMs = nowMs
  }

  const restMs = () => (expected ? tolerance * 1000 * expected.rest : unmeasuredMs)
  const nextStepMs = () => (stepMs === undefined ? unmeasuredMs : tolerance * stepMs)

  return {
    sent: () => allow(0),
    heard(event, isLoaded) {
      switch (event.kind) {
        case 'planned':
          return allow(isLoaded ? unmeasuredMs : loadingMs)
        case 'progress':
          heardStep()
          return allow(event.step === event.steps ? restMs() : nextStepMs())
        case 'image':
          stepAtMs = undefined
          return allow(Math.max(restMs(), nextStepMs()))
        case 'done':
        case 'failed':
          return clearTimeout(timer)
        default:
          return allow(Math.max(restMs(), nextStepMs()))
      }
    },
    canceled: () => allow(Math.max(nextStepMs(), expected ? restMs() : 0)),
    stop: () => clearTimeout(timer),
  }
}
