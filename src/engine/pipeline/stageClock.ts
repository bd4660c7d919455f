/** The seconds that a generation spends in each of its stages. */

const stages = ['lora', 'prompt', 'start', 'denoise', 'decode', 'safety', 'encode'] as const
type Stage = (typeof stages)[number]

/**
 * Seconds by stage; `lora` is switching to the plan's set of LoRAs, `start` is reading and encoding
 * an image, and writing files (`encode`) overlaps with the stages after it. `ort`: inside ONNX
 * Runtime.
 */
export type StageSeconds = Readonly<Record<Stage | 'total' | 'ort', number>>

export type StageClock = {
  /** Adds the seconds that `work` takes to its stage. */
  readonly time: <T>(stage: Stage, work: () => Promise<T>) => Promise<T>
  readonly timings: () => StageSeconds
}

/** A clock that starts now; `busySeconds` are those spent inside ONNX Runtime so far. */
export function startStageClock(busySeconds: () => number): StageClock {
  const startedAt = performance.now()
  const ortAtStart = busySeconds()
  const seconds = Object.fromEntries(stages.map((stage) => [stage, 0])) as Record<Stage, number>
  return {
    async time(stage, work) {
      const stageStart = performance.now()
      try {
        return await work()
      } finally {
        seconds[stage] += (performance.now() - stageStart) / 1000
      }
    },
    timings: () => ({
      ...seconds,
      total: (performance.now() - startedAt) / 1000,
      ort: busySeconds() - ortAtStart,
    }),
  }
}
