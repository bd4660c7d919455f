/**
 * The port of the store that owns a prediction's state and the queue. Each operation is atomic, and
 * durable when it resolves. The queue is an index of the rows: highest priority first, then the
 * turns that owners (API keys) got at admission, then first come, first served.
 *
 * A claim gives a prediction to one executor. Every write of a holder passes its claim; a claim
 * whose number is no longer the row's changes nothing, so that a holder that was given up for lost
 * cannot overwrite what its successor wrote.
 */
import type { Prediction } from '../contract/prediction.js'
import type { Cost, CostTotals } from '../predictions/cost.js'
import type { RequestedWork } from '../predictions/request.js'

export type Admission = {
  readonly prediction: Prediction
  readonly work: RequestedWork
  /** Higher runs first. */
  readonly priority: number
  readonly cost: Cost
  /** Predictions with equal keys run on equal weights. */
  readonly loraSet: string
  readonly idempotency?: { readonly key: string; readonly bodyDigest: string } | undefined
  /** Refused as `full` when so many wait. */
  readonly maxWaiting: number
  /** Refused as `busy` when one waits or runs. */
  readonly unlessBusy?: boolean | undefined
}

export type AdmissionOutcome =
  | { readonly kind: 'admitted' }
  /** The same request was admitted before. */
  | { readonly kind: 'repeated'; readonly id: string }
  /** The id is taken, or the idempotency key was used for another body. */
  | { readonly kind: 'conflict'; readonly field: 'id' | 'idempotencyKey' }
  | { readonly kind: 'full' }
  | { readonly kind: 'busy' }

export type Claim = {
  readonly id: string
  readonly executor: string
  /** Rises with each claim of the prediction. */
  readonly number: number
}

export type ClaimedPrediction = {
  readonly claim: Claim
  /** With its whole input. */
  readonly prediction: Prediction
  readonly work: RequestedWork
  readonly priority: number
  readonly cost: Cost
  readonly loraSet: string
}

export type ClaimOptions = {
  readonly executor: string
  /** The LoRA set that is in place there, or will be. */
  readonly resident?: string | undefined
  /** For how long the head of the queue may be overtaken for it; 0: never. */
  readonly patienceMs: number
  /** Only what has a higher priority than this. */
  readonly above?: number | undefined
}

/** Where a prediction stands that is not over. */
export type QueuePosition = {
  /** How many wait before it; absent when it runs. */
  readonly before?: number | undefined
  /** What those and it come to; nothing when it runs. */
  readonly cost: CostTotals
  /** What runs now. */
  readonly running: readonly RunningPrediction[]
}

export type RunningPrediction = {
  readonly id: string
  readonly cost: Cost
  readonly startedAt: Date
}

export type ListQuery = {
  readonly limit: number
  /** Only what was admitted before, or after, this one: a sequence. */
  readonly before?: number | undefined
  readonly after?: number | undefined
  readonly createdAfter?: Date | undefined
  readonly createdBefore?: Date | undefined
}

export type ListedPrediction = {
  /** Rises with each admission. */
  readonly sequence: number
  /** Long values of its input are cut short. */
  readonly prediction: Prediction
}

/** What is canceled keeps what it had logged and measured so far, where its holder says so. */
export type Progress = Pick<Prediction, 'logs' | 'metrics' | 'startedAt'>

export type PredictionStore = {
  readonly admit: (admission: Admission) => Promise<AdmissionOutcome>
  /** With its whole input. */
  readonly find: (id: string) => Promise<Prediction | undefined>
  readonly findByStreamToken: (token: string) => Promise<Prediction | undefined>
  /** Newest first; with `after`, those that follow it most closely. */
  readonly list: (query: ListQuery) => Promise<ListedPrediction[]>
  /** Undefined for one that is over or unknown. */
  readonly queuePosition: (id: string) => Promise<QueuePosition | undefined>
  /** How many wait, claimed ahead or not, and how many run. */
  readonly counts: () => Promise<{ readonly waiting: number; readonly running: number }>
  /** The next one for an executor, if there is one. */
  readonly claim: (options: ClaimOptions) => Promise<ClaimedPrediction | undefined>
  /** Gives what `claim` holds and does not run to another executor. */
  readonly takeOver: (claim: Claim, executor: string) => Promise<Claim | undefined>
  /** It runs, as `prediction` says. False: the claim no longer holds. */
  readonly begin: (claim: Claim, prediction: Prediction) => Promise<boolean>
  /** What it has logged and made so far, for readers of the row. */
  readonly checkpoint: (claim: Claim, prediction: Prediction) => Promise<boolean>
  /**
   * It is over, as `prediction` says; its `completed` webhook is due. False: it was over before.
   */
  readonly settle: (claim: Claim, prediction: Prediction) => Promise<boolean>
  /** It waits again, before all others of its priority. */
  readonly release: (claim: Claim) => Promise<void>
  /** Canceled, waiting or running; one that is over is returned unchanged. */
  readonly cancel: (id: string, progress?: Progress) => Promise<CancelOutcome>
  /** Cancels what is not done at its deadline. */
  readonly expire: (now: Date) => Promise<readonly Prediction[]>
  /** Of those that are not over. */
  readonly nextDeadline: () => Promise<Date | undefined>
  /**
   * What an earlier process held waits again, in its place. What was running at the end of
   * `maxStarts` processes fails; those are returned.
   */
  readonly recover: (maxStarts: number) => Promise<readonly Prediction[]>
  /** Ids of predictions with data that were over before `time`, at most `limit`. */
  readonly listToClear: (time: Date, limit: number) => Promise<string[]>
  /** Removes input, output and logs. */
  readonly clear: (ids: readonly string[]) => Promise<void>
  readonly forgetIdempotencyKeys: (before: Date) => Promise<void>
}

export type CancelOutcome = {
  readonly prediction: Prediction | undefined
  /** Whether this call ended it. */
  readonly isCanceled: boolean
}
