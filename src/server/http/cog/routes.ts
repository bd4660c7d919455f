/**
 * The surface of a Cog container (C-2.1 to C-2.7). A failed prediction is still HTTP 200, with
 * status "failed". `POST` without `Prefer: respond-async` is bound to its connection: a client that
 * hangs up cancels. `PUT` is for clients that come back, as is `POST` with an `Idempotency-Key`: an id stands for one prediction, in flight and
 * after its end, and who hangs up changes nothing.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Catalog } from '../../../catalog/catalog.js'
import type { Model } from '../../../catalog/model.js'
import {
  CogPredictionId,
  CogPredictionRequest,
  type PredictionResponse,
  sentInput,
  toPredictionResponse,
} from '../../../contract/cog.js'
import { openApiDocument } from '../../../contract/openapi.js'
import type { Prediction } from '../../../contract/prediction.js'
import { FluxdError } from '../../../errors.js'
import type { Files } from '../../../files/files.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { PredictionRequest } from '../../../predictions/request.js'
import type { Predictions } from '../../predictions/service.js'
import { createRequest } from '../createRequest.js'
import { readIdempotency } from '../idempotency.js'
import { encodeWhole, withWholeInput } from '../inputEcho.js'
import { readForm } from '../multipart.js'
import { sendQueueHeaders } from '../queueHeaders.js'
import { disconnectSignal } from '../sse.js'
import type { ZodTypeProvider } from '../zod.js'
import type { CogOutputs, Trace } from './outputs.js'
import { streamPrediction } from './stream.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The input before validation, for the echo. */
    sentInput: Readonly<Record<string, unknown>>
  }
}

export type CogServices = {
  readonly predictions: Predictions
  readonly catalog: Pick<Catalog, 'find'>
  readonly outputs: CogOutputs
  readonly files: Pick<Files, 'read'>
  /** The model that is served, `owner/name`. */
  readonly model: string
  /** 409 instead of a place in the queue. */
  readonly refusesWhenBusy: boolean
  readonly isSettingUp: () => boolean
  /** Ends the server. */
  readonly shutdown: () => void
}

const index = {
  cog_version: '0.16.9',
  docs_url: '/docs',
  openapi_url: '/openapi.json',
  shutdown_url: '/shutdown',
  healthcheck_url: '/health-check',
  predictions_url: '/predictions',
  predictions_idempotent_url: '/predictions/{prediction_id}',
  predictions_cancel_url: '/predictions/{prediction_id}/cancel',
}

const IdPath = z.object({ id: CogPredictionId })
const makesOne = { creates: true } as const

export function cogRoutes(server: FastifyInstance, services: CogServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { predictions } = services
  const document = openApiDocument()
  const config = { access: 'public' } as const
  const openStreams = new Set<() => void>()
  const answer = createAnswer(services, openStreams)
  app.decorateRequest('sentInput')

  app.get('/', { config }, () => index)

  app.get('/openapi.json', { config }, () => document)

  const preValidation = async (request: FastifyRequest) => {
    await readForm(request)
    request.sentInput = sentInput(request.body)
  }

  app.post(
    '/predictions',
    { schema: { body: CogPredictionRequest }, preValidation, config: makesOne },
    async (request, reply) => {
      const wanted = toRequest(request.body, request, services)
      const { id } = await predictions.create(wanted)
      const comesBack = wanted.idempotency !== undefined
      return answer(id, request, reply, comesBack ? staysForGood : () => hangUp(id))
    },
  )

  app.put(
    '/predictions/:id',
    { schema: { params: IdPath, body: CogPredictionRequest }, preValidation, config: makesOne },
    async (request, reply) => {
      const { id } = request.params
      expectSameId(request.body.id, id)
      const known = await predictions.get(id)
      if (known) return answerKnown(known, request, reply)
      const wanted = { ...toRequest(request.body, request, services), id }
      await predictions.create(wanted).catch(ignoreConflict)
      return answer(id, request, reply, staysForGood)
    },
  )

  app.post('/predictions/:id/cancel', { schema: { params: IdPath } }, async (request, reply) => {
    const { id } = request.params
    const prediction = await predictions.get(id)
    if (prediction && !isTerminal(prediction)) await predictions.cancel(id)
    else reply.code(404)
    return {}
  })

  app.post('/shutdown', { config: { access: 'admin' } }, (_request, reply) => {
    reply.raw.once('finish', services.shutdown)
    return {}
  })

  // A server that closes waits for its replies.
  app.addHook('preClose', async () => {
    for (const close of openStreams) close()
  })

  /** The client is gone: a cancel that fails is only logged. */
  async function hangUp(id: string): Promise<void> {
    await predictions
      .cancel(id)
      .catch((error: unknown) => app.log.error({ err: error, prediction: id }, 'cancel failed'))
  }

  async function answerKnown(prediction: Prediction, request: FastifyRequest, reply: FastifyReply) {
    if (wantsEvents(request)) return answer(prediction.id, request, reply, staysForGood)
    sendQueueHeaders(reply, await predictions.queueEstimate(prediction.id))
    reply.code(isTerminal(prediction) ? 200 : 202)
    return tell(services, prediction, request, reply)
  }
}

/** A client that comes back for its prediction cancels nothing when it hangs up. */
const staysForGood = async () => {}

/** What a client gets for its prediction: events, at once a 202, or the end of it. */
function createAnswer(services: CogServices, openStreams: Set<() => void>) {
  const { predictions, outputs } = services

  return async function answer(
    id: string,
    request: FastifyRequest,
    reply: FastifyReply,
    onHangUp: () => Promise<void>,
  ) {
    if (wantsEvents(request)) {
      const close = await streamPrediction(reply, id, {
        predictions,
        deliver: async (file) => (await outputs.deliver({ id, output: [file] }))![0]!,
        describe: async () => encode(services, (await predictions.get(id))!, request),
        onHangUp,
      })
      openStreams.add(close)
      reply.raw.once('close', () => openStreams.delete(close))
      return reply
    }
    // Cog compares the header by exact equality; any other preference is ignored.
    if (request.headers.prefer === 'respond-async') {
      sendQueueHeaders(reply, await predictions.queueEstimate(id))
      reply.code(202)
      return tell(services, (await predictions.get(id))!, request, reply)
    }
    const prediction = await predictions.waitUntilTerminal(id, { signal: disconnectSignal(reply) })
    if (!isTerminal(prediction)) await onHangUp()
    return tell(services, (await predictions.get(id))!, request, reply)
  }
}

async function tell(
  services: CogServices,
  prediction: Prediction,
  request: FastifyRequest,
  reply: FastifyReply,
) {
  const body = await describe(services, prediction, request)
  return withWholeInput(body, prediction, services.files, reply)
}

async function encode(services: CogServices, prediction: Prediction, request: FastifyRequest) {
  const body = await describe(services, prediction, request)
  return String(await encodeWhole(body, prediction, services.files))
}

async function describe(
  { outputs }: CogServices,
  prediction: Prediction,
  request: FastifyRequest,
): Promise<PredictionResponse> {
  const body = request.body as CogPredictionRequest
  const uris = await outputs.deliver(prediction, readTrace(request), body.output_file_prefix)
  return toPredictionResponse(prediction, uris)
}

function toRequest(
  body: CogPredictionRequest,
  request: FastifyRequest,
  services: CogServices,
): PredictionRequest {
  if (services.refusesWhenBusy && services.isSettingUp())
    throw new FluxdError('busy', 'Already running a prediction')
  return {
    ...createRequest(findModel(services), request.sentInput, body, request, services.catalog),
    surface: 'cog',
    id: body.id,
    sentCreatedAt: body.created_at,
    unlessBusy: services.refusesWhenBusy,
    idempotency: readIdempotency(request, { ...body, input: request.sentInput }),
  }
}

function findModel({ model, catalog }: CogServices): Model {
  const [owner = '', name = ''] = model.split('/')
  const found = catalog.find(owner, name)
  if (!found) throw new FluxdError('not_found', `There is no model ${model}`)
  return found
}

function expectSameId(sent: string | undefined, id: string): void {
  if (sent === undefined || sent === id) return
  const message = 'prediction ID must match the ID supplied in the URL'
  throw new z.ZodError([{ code: 'custom', path: ['id'], input: sent, message }])
}

/** Somebody else was faster with the same id: it is the same prediction. */
function ignoreConflict(error: unknown): void {
  if (!(error instanceof FluxdError) || error.code !== 'conflict') throw error
}

const wantsEvents = ({ headers }: FastifyRequest) =>
  headers.accept?.includes('text/event-stream') ?? false

/** What belongs to a trace goes on to the places that are told of the prediction. */
const readTrace = ({ headers }: FastifyRequest): Trace =>
  Object.fromEntries(
    ['traceparent', 'tracestate'].flatMap((name) => {
      const value = headers[name]
      return typeof value === 'string' ? [[name, value]] : []
    }),
  )
