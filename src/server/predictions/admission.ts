/**
 * Admission: what is refused, what is known already, and what is on disk before it is acknowledged.
 */
import type { Prediction } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import type { Files } from '../../files/files.js'
import type { PlanDraft } from '../../plan/planGeneration.js'
import { draftCost } from '../../predictions/cost.js'
import { loraSetOf } from '../../predictions/loraSet.js'
import { createPrediction } from '../../predictions/prediction.js'
import type { PredictionRequest } from '../../predictions/request.js'
import type { AdmissionOutcome, PredictionStore } from '../../store/predictionStore.js'
import { randomId } from '../../store/randomId.js'
import { type OffloadedRequest, offloadLargeInputs, removeFiles } from './offloadedInputs.js'

export type AdmissionOptions = {
  readonly store: Pick<PredictionStore, 'admit' | 'counts'>
  readonly files: Pick<Files, 'assertDiskSpace' | 'add' | 'remove'>
  readonly maxQueue: number
  /** Seconds until there will be room in the queue, as far as it is known. */
  readonly untilRoom: () => Promise<number | undefined>
}

export type Admitted =
  | { readonly kind: 'admitted'; readonly prediction: Prediction }
  /** The same request was admitted before. */
  | { readonly kind: 'repeated'; readonly id: string }

export type AdmissionDesk = {
  /** Throws `queue_full`, `busy`, `storage_full` and `conflict`. */
  readonly admit: (request: PredictionRequest, draft: PlanDraft) => Promise<Admitted>
  /** Why nothing would be admitted now, if so. */
  readonly refusal: () => Promise<string | undefined>
}

// Four outputs of 1440×1440 are 1 MB as webp and 16 MB as png.
const outputBytes = 16 * 1024 * 1024

export function createAdmission(options: AdmissionOptions): AdmissionDesk {
  const { store, files, maxQueue } = options

  /** Large inputs are on disk before the row that names them, and are removed if there is none. */
  async function admit(request: PredictionRequest, draft: PlanDraft): Promise<Admitted> {
    const id = request.id ?? randomId()
    await files.assertDiskSpace(outputBytes)
    const offloaded = await offloadLargeInputs(request, id, files)
    const prediction = describe(id, { ...request, ...offloaded })
    let outcome: AdmissionOutcome | undefined
    try {
      outcome = await store.admit({
        prediction,
        work: { input: offloaded.input, loras: request.loras },
        priority: request.priority ?? 0,
        cost: draftCost(draft, request.input.model),
        loraSet: loraSetOf(request, draft),
        idempotency: request.idempotency,
        maxWaiting: maxQueue,
        unlessBusy: request.unlessBusy,
      })
    } finally {
      if (outcome?.kind !== 'admitted') await removeFiles(offloaded.inputFiles, files)
    }
    switch (outcome.kind) {
      case 'admitted':
        return { kind: 'admitted', prediction: { ...prediction, input: request.inputEcho } }
      case 'repeated':
        return outcome
      default:
        throw await refuse(outcome, request)
    }
  }

  async function refuse(
    outcome: Exclude<AdmissionOutcome, { kind: 'admitted' | 'repeated' }>,
    { id, idempotency }: PredictionRequest,
  ): Promise<FluxdError> {
    switch (outcome.kind) {
      case 'busy':
        return new FluxdError('busy', 'Already running a prediction')
      case 'full':
        return new FluxdError('queue_full', `All ${maxQueue} places of the queue are taken`, {
          retryAfterSeconds: Math.max(1, Math.ceil((await options.untilRoom()) ?? 5)),
        })
      case 'conflict':
        return new FluxdError(
          'conflict',
          outcome.field === 'id'
            ? `There is a prediction ${id} already`
            : `Expected the request that Idempotency-Key ${idempotency?.key} was used for but ` +
                'received another one',
        )
      default:
        return outcome satisfies never
    }
  }

  async function refusal(): Promise<string | undefined> {
    if ((await store.counts()).waiting >= maxQueue) return 'the queue is full'
    try {
      await files.assertDiskSpace(outputBytes)
      return undefined
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  return { admit, refusal }
}

const describe = (id: string, request: PredictionRequest & OffloadedRequest): Prediction =>
  createPrediction({
    id,
    surface: request.surface,
    model: request.model,
    version: request.version,
    deployment: request.deployment,
    keyId: request.keyId,
    input: request.inputEcho,
    inputFiles: request.inputFiles,
    createdAt: new Date(),
    deadline: request.deadline,
    sentCreatedAt: request.sentCreatedAt,
    webhook: request.webhook,
    traceparent: request.traceparent,
    streamToken: randomId(),
  })
