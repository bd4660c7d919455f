/** What a surface asks for when it has a prediction made. */
import type { FluxInput } from '../contract/input.js'
import type { Prediction } from '../contract/prediction.js'
import type { Wish } from '../store/storedRequest.js'

export type NewPrediction = {
  /** Chosen by a Cog client; drawn where it is absent. */
  readonly id?: string | undefined
  readonly surface: Prediction['surface']
  readonly model: string
  readonly version: string
  readonly deployment?: string | undefined
  readonly keyId?: string | undefined
  /** The input to echo: as it was sent, without secrets. */
  readonly sent: Readonly<Record<string, unknown>>
  /** What is to be made, as `applyModel` of the catalog tells it. */
  readonly wish: FluxInput
  /** Default: none. */
  readonly loras?: Wish['loras'] | undefined
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
