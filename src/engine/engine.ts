import type { GenerationPlan, Variant } from '../plan/plan.js'
import type { GenerationEvent, GenerationTimings } from './protocol.js'

export type EngineStatus = 'starting' | 'ready' | 'busy' | 'restarting' | 'stopped'

export type EncodedImage = { readonly bytes: Uint8Array; readonly mimeType: string }

export type GenerationResult = {
  readonly images: readonly EncodedImage[]
  readonly timings: GenerationTimings
}

export type GenerateOptions = {
  readonly signal?: AbortSignal
  readonly onEvent?: (event: GenerationEvent) => void
}

/** The API process's view of one engine process. */
export type Engine = {
  readonly status: () => EngineStatus
  /** Loads a variant ahead of the first prediction; throws what is wrong with its checkpoint. */
  readonly load: (variant: Variant) => Promise<void>
  /**
   * Runs one prediction; predictions wait for each other in order of arrival.
   * Throws `canceled` when `signal` aborts and `engine_failed` when the process died under it.
   */
  readonly generate: (plan: GenerationPlan, options?: GenerateOptions) => Promise<GenerationResult>
  /** Gives a variant's memory back. */
  readonly release: (variant: Variant) => Promise<void>
  readonly stop: () => Promise<void>
}
