/** The way in: what is refused, what is known already, and what is on disk before it is acknowledged. */
import type { Prediction } from '../../contract/prediction.js'
import { FluxdError } from '../../errors.js'
import type { Files } from '../../files/files.js'
import { drawSeed } from '../../plan/seed.js'
import { createPrediction } from '../../predictions/prediction.js'
import type { NewPrediction } from '../../predictions/request.js'
import { randomId } from '../../store/randomId.js'
import type { Database } from '../../store/sqlite/database.js'
import type { IdempotencyStore } from '../../store/sqlite/idempotency.js'
import type { PredictionStore, StoredPrediction } from '../../store/sqlite/predictions.js'
import type { Wish } from '../../store/storedRequest.js'
import { type Detached, detachFiles, removeFiles } from './offloadedInputs.js'

export type Outcome =
  | {
      readonly kind: 'admitted'
      readonly stored: StoredPrediction
      readonly wish: Wish
      /** As `Prediction.input`. */
      readonly sent: Prediction['input']
    }
  /** The same request was admitted before. */
  | { readonly kind: 'repeated'; readonly id: string }

export type AdmissionOptions = {
  readonly database: Database
  readonly store: PredictionStore
  readonly idempotency: IdempotencyStore
  readonly files: Pick<Files, 'expectRoom' | 'add' | 'remove'>
  readonly maxQueue: number
  /** How many wait, and how many wait or run. */
  readonly waiting: () => number
  readonly live: () => number
  /** Seconds until there will be room, as far as it is known. */
  readonly untilRoom: () => number | undefined
}

/** Room that must be left: four outputs of 1440×1440 are 1 MB as webp and 16 MB as png. */
const outputRoomBytes = 16 * 1024 * 1024

export type Admission = {
  /** Throws as `Predictions.create`. */
  readonly admit: (request: NewPrediction) => Promise<Outcome>
  /** Why nothing would be admitted now, if so. */
  readonly refusal: () => Promise<string | undefined>
}

export function createAdmission(options: AdmissionOptions): Admission {
  const { database, store, idempotency, files } = options
  let admitting = 0

  async function admit(request: NewPrediction): Promise<Outcome> {
    const repeated = findRepeated(request)
    if (repeated) return repeated
    refuse(request)
    admitting++
    try {
      await files.expectRoom(outputRoomBytes)
      return await admitAs(request.id ?? randomId(), request)
    } finally {
      admitting--
    }
  }

  /** What came in files is on disk before the row that names them, and goes if there is none. */
  async function admitAs(id: string, request: NewPrediction): Promise<Outcome> {
    const detached = await detachFiles(request, id, files)
    let outcome: Outcome | undefined
    try {
      outcome = await database.commitSoon(
        () => findRepeated(request) ?? insert(id, { ...request, ...detached }),
      )
      return outcome
    } finally {
      if (outcome?.kind !== 'admitted') await removeFiles(detached.inputFiles, files)
    }
  }

  const isFull = () => options.waiting() + admitting >= options.maxQueue

  async function refusal(): Promise<string | undefined> {
    if (isFull()) return 'the queue is full'
    try {
      await files.expectRoom(outputRoomBytes)
      return undefined
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  function refuse({ unlessBusy }: NewPrediction): void {
    if (unlessBusy && options.live() + admitting > 0)
      throw new FluxdError('busy', 'Already running a prediction')
    if (!isFull()) return
    throw new FluxdError('queue_full', `All ${options.maxQueue} places of the queue are taken`, {
      retryAfterSeconds: Math.max(1, Math.ceil(options.untilRoom() ?? 5)),
    })
  }

  function findRepeated({ id, keyId = '', idempotency: sent }: NewPrediction): Outcome | undefined {
    const known = sent && idempotency.find(keyId, sent.key)
    if (known && known.bodyDigest === sent.bodyDigest)
      return { kind: 'repeated', id: known.predictionId }
    if (known)
      throw new FluxdError(
        'conflict',
        `Expected the request that Idempotency-Key ${sent.key} was used for but received another one`,
      )
    if (id !== undefined && store.find(id))
      throw new FluxdError('conflict', `There is a prediction ${id} already`)
    return undefined
  }

  function insert(id: string, request: Detached & NewPrediction): Outcome {
    const prediction = describe(id, request)
    const { keyId = '', idempotency: sent, loras = { main: [], extra: [] } } = request
    const wish = { input: withSeed(request.wish), loras }
    const stored = store.insert({ prediction, wish, priority: request.priority ?? 0 })
    if (sent) idempotency.add({ owner: keyId, ...sent }, id, prediction.createdAt)
    return { kind: 'admitted', stored, wish, sent: request.sent }
  }

  return { admit, refusal }
}

const describe = (id: string, request: Detached & NewPrediction): Prediction =>
  createPrediction({
    id,
    surface: request.surface,
    model: request.model,
    version: request.version,
    deployment: request.deployment,
    keyId: request.keyId,
    input: request.sent,
    inputFiles: request.inputFiles,
    createdAt: new Date(),
    deadline: request.deadline,
    sentCreatedAt: request.sentCreatedAt,
    webhook: request.webhook,
    streamToken: randomId(),
  })

/** Drawn here, so that a second run makes the same pictures. */
const withSeed = (input: Wish['input']): Wish['input'] => ({
  ...input,
  seed: input.seed === undefined || input.seed < 0 ? drawSeed() : input.seed,
})
