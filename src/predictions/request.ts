/**
 * What a surface asks for when it has a prediction made: validated, with its seed and its LoRAs.
 */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { LoraRef } from '../plan/loraRef.js'

export type PredictionRequest = {
  /** Chosen by a Cog client; random where it is absent. */
  readonly id?: string | undefined
  readonly surface: Prediction['surface']
  readonly model: string
  readonly version: string
  readonly deployment?: string | undefined
  readonly keyId?: string | undefined
  /** Validated; its seed is resolved. */
  readonly input: FluxInput
  /** The input as it was sent, without secrets: what clients read back. */
  readonly inputEcho: Readonly<Record<string, unknown>>
  /** Merged in this order. */
  readonly loras: readonly LoraRef[]
  readonly deadline?: Date | undefined
  readonly webhook?: Prediction['webhook']
  readonly sentCreatedAt?: string | undefined
  /** The same key and digest again give the same prediction; another digest is `conflict`. */
  readonly idempotency?: { readonly key: string; readonly bodyDigest: string } | undefined
  /** Higher runs first; default 0. */
  readonly priority?: number | undefined
  /** The trace that it belongs to (W3C). */
  readonly traceparent?: string | undefined
  /** Throws `busy` instead of waiting. */
  readonly unlessBusy?: boolean | undefined
}

/** What of a request the work needs. */
export type RequestedWork = Pick<PredictionRequest, 'input' | 'loras'>
