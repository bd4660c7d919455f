/** An engine and a library that count what they do; they do it as they would otherwise. */

import { FluxdError } from '../errors.js'
import type { Library } from '../loras/loraCache.js'
import { stepsToRun } from '../plan/plan.js'
import type { Engine } from '../worker/engine/client.js'
import type { Metrics } from './metrics.js'

export const observeEngine = (engine: Engine, metrics: Metrics): Engine => ({
  ...engine,
  async generate(plan, options = {}) {
    try {
      const result = await engine.generate(plan, {
        ...options,
        onEvent(event) {
          if (event.kind === 'flagged') metrics.imageFlagged()
          options.onEvent?.(event)
        },
      })
      const { ort: _ort, total: _total, ...stageSeconds } = result.timings
      metrics.generationEnded({
        variant: plan.variant,
        precision: plan.precision,
        mode: plan.start.kind,
        steps: stepsToRun(plan) * plan.count,
        stageSeconds,
      })
      return result
    } catch (error) {
      if (error instanceof FluxdError && error.code === 'engine_died') metrics.engineRestarted()
      throw error
    }
  },
})

export const observeLibrary = (library: Library, metrics: Metrics): Library => ({
  ...library,
  async acquire(reference, options) {
    const lora = await library.acquire(reference, options)
    metrics.loraAcquired(lora.source, lora.seconds)
    return lora
  },
})
