/**
 * Creates a prediction from a validated body: admit, wait as long as the client asks, respond. A
 * client that hangs up does not cancel: it will ask again (C-3.5).
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Catalog } from '../../../catalog/catalog.js'
import type { CreateNamedPrediction, ReplicatePrediction } from '../../../contract/replicate.js'
import { FluxdError } from '../../../errors.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { PredictionRequest } from '../../../predictions/request.js'
import { createRequest } from '../createRequest.js'
import { sendQueueHeaders } from '../headers.js'
import { readIdempotency } from '../idempotency.js'
import { withWholeInput } from '../inputEcho.js'
import { disconnectSignal } from '../sse.js'
import type { ReplicateServices } from './context.js'
import { problem } from './errors.js'
import type { Target } from './lookup.js'
import { parseCancelAfter, parsePrefer } from './preferHeader.js'
import type { Presenter } from './present.js'

export type Admit = (
  target: Target,
  body: CreateNamedPrediction,
  request: FastifyRequest,
  reply: FastifyReply,
) => Promise<unknown>

// Clients give up at 60 s, and some of them send the request once more then.
const longestWaitSeconds = 58

export function createAdmission(
  { predictions, catalog, files }: Pick<ReplicateServices, 'predictions' | 'catalog' | 'files'>,
  { present }: Presenter,
): Admit {
  return async (target, body, request, reply) => {
    const { waitSeconds, output, applied } = parsePrefer(request.headers.prefer)
    const created = await predictions
      .create(toRequest(target, body, request, catalog))
      .catch(explainConflict)
    const prediction =
      waitSeconds === undefined
        ? created
        : await predictions.waitUntilTerminal(created.id, {
            timeoutMs: Math.min(waitSeconds, longestWaitSeconds) * 1000,
            signal: disconnectSignal(reply),
          })
    const body201 = await present(prediction, request, output)
    reply.header('location', body201.urls.get)
    if (applied) reply.header('preference-applied', applied)
    sendQueueHeaders(reply, await predictions.queueEstimate(prediction.id))
    const isLate = waitSeconds !== undefined && !isTerminal(prediction)
    reply.code(isLate ? 202 : 201)
    return withWholeInput(isLate ? asStarting(body201) : body201, prediction, files, reply)
  }
}

/** Clients that waited take any other state for the end. */
const asStarting = (prediction: ReplicatePrediction): ReplicatePrediction => ({
  ...prediction,
  status: 'starting',
  output: null,
})

function toRequest(
  { model, version, deployment }: Target,
  body: CreateNamedPrediction,
  request: FastifyRequest,
  catalog: Catalog,
): PredictionRequest {
  const seconds = parseCancelAfter(request.headers['cancel-after'])
  return {
    ...createRequest(model, body.input, body, request, catalog),
    version,
    surface: 'replicate',
    deployment,
    deadline: seconds === undefined ? undefined : new Date(Date.now() + seconds * 1000),
    idempotency: readIdempotency(request, request.body, (sentence) =>
      problem(422, 'Invalid Idempotency-Key header', sentence),
    ),
  }
}

/** Ids are ours on this surface, so that only an Idempotency-Key can be in conflict. */
function explainConflict(error: unknown): never {
  if (!(error instanceof FluxdError) || error.code !== 'conflict') throw error
  throw problem(
    422,
    'Idempotency key already used',
    'Expected the same request as the one that used this Idempotency-Key before',
  )
}
