/** Seconds from the start of an engine to its first image. */

import type { GenerationPlan } from '../plan/plan.js'
import type { Engine } from '../worker/engine/client.js'
import { requestOf } from './cases.js'
import { cachedShare, dropFromCache } from './pageCache.js'
import { round } from './statistics.js'

/** Seconds, each from the end of the one before. */
export type StartSeconds = {
  /** The share of the weights' files that the page cache held; undefined where it is unknown. */
  readonly cached: number | undefined
  /** The engine's process runs and listens. */
  readonly process: number
  /** The model is loaded. */
  readonly load: number
  /** The first image is made. */
  readonly firstPicture: number
}

export type StartOptions = {
  readonly start: () => Engine
  readonly files: readonly string[]
  /** Whether the files are dropped from the page cache first, as far as the system allows. */
  readonly fromDisk: boolean
  readonly signal?: AbortSignal | undefined
}

/** Starts an engine, loads the plan's variant, makes its image, and stops the engine. */
export async function measureStart(
  plan: GenerationPlan,
  { start, files, fromDisk, signal }: StartOptions,
): Promise<StartSeconds> {
  if (fromDisk) await dropFromCache(files)
  const cached = await cachedShare(files)
  let endedAt = performance.now()
  const lap = () => {
    const startedAt = endedAt
    endedAt = performance.now()
    return round((endedAt - startedAt) / 1000)
  }
  const engine = start()
  try {
    // There is nothing to release: it answers as soon as it listens.
    await engine.release(plan.variant)
    const process = lap()
    await engine.load(plan.variant)
    const load = lap()
    await engine.generate(requestOf(plan), { ...(signal && { signal }) })
    return { cached, process, load, firstPicture: lap() }
  } finally {
    await engine.stop()
  }
}
