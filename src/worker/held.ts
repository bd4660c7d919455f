/** The one record of a prediction that an executor holds: claimed, and not given back or over. */
import { draftPlan, type PlanDraft, type PlanSettings } from '../plan/planGeneration.js'
import type { FeedWriter, LocalFeed } from '../predictions/feed.js'
import type { Claim, ClaimedPrediction } from '../store/predictionStore.js'
import { type AssetSources, type Assets, fetchAssets } from './assets.js'

export type HeldPrediction = Omit<ClaimedPrediction, 'claim' | 'prediction'> & {
  readonly id: string
  /** Another one after a take-over. */
  claim: Claim
  readonly draft: PlanDraft
  readonly feed: FeedWriter
  /** Aborts when it is over or the worker stops. */
  readonly abort: AbortController
  state: HeldState
  /** Resolves when `state` is no longer `fetching`. */
  fetched: Promise<void>
}

export type HeldState =
  /** What it needs is being fetched; `isSlow`: the executor claims another one meanwhile. */
  | { readonly kind: 'fetching'; readonly isSlow: boolean }
  | { readonly kind: 'ready'; readonly assets: Assets }
  | { readonly kind: 'failed'; readonly error: unknown }

/** A prediction whose assets are there. */
export type ReadyPrediction = HeldPrediction & { state: Extract<HeldState, { kind: 'ready' }> }

export const hold = (
  { claim, prediction, ...rest }: ClaimedPrediction,
  settings: PlanSettings,
  feed: LocalFeed,
): HeldPrediction => ({
  ...rest,
  id: claim.id,
  claim,
  draft: draftPlan(rest.work.input, rest.work.loras, settings),
  feed: feed.open(prediction),
  abort: new AbortController(),
  state: { kind: 'fetching', isSlow: false },
  fetched: Promise.resolve(),
})

/** Begins to fetch what `held` needs. */
export function fetchFor(held: HeldPrediction, sources: AssetSources): void {
  const { draft, work, abort, feed } = held
  const { signal } = abort
  const fetching =
    draft.kind === 'invalid'
      ? Promise.reject(draft.error)
      : fetchAssets(work, sources, { signal, writeLine: feed.writeLine })
  held.fetched = fetching.then(
    (assets) => {
      held.state = { kind: 'ready', assets }
      if (signal.aborted) assets.release()
    },
    (error: unknown) => {
      held.state = { kind: 'failed', error }
    },
  )
}

export const isReady = (held: HeldPrediction): held is ReadyPrediction =>
  held.state.kind === 'ready'

/** The one to run next: of the highest priority, and then the one that was claimed first. */
export const firstReady = (held: Iterable<HeldPrediction>): ReadyPrediction | undefined =>
  [...held].filter(isReady).sort((a, b) => b.priority - a.priority)[0]

/** Gives the LoRA files back; what is still being fetched gives them back itself. */
export function releaseAssets({ state }: HeldPrediction): void {
  if (state.kind === 'ready') state.assets.release()
}
