/**
 * The surface of a Cog container (C-2.1 to C-2.7). A failed prediction is still HTTP 200, with
 * status "failed". `POST` without `Prefer: respond-async` is bound to its connection: a client that
 * hangs up cancels. `PUT`, and `POST` with an `Idempotency-Key`, are for clients that come back: an
 * id stands for one prediction, also after its end, and hanging up cancels nothing.
 */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Catalog } from '../../../catalog/catalog.js'
import type { Model } from '../../../catalog/model.js'
import {
  CogPredictionId,
  CogPredictionRequest,
  PredictionResponse,
  sentInput,
} from '../../../contract/cog.js'
import { openApiDocument } from '../../../contract/openapi.js'
import { FluxdError } from '../../../errors.js'
import { isTerminal } from '../../../predictions/prediction.js'
import type { PredictionRequest } from '../../../predictions/request.js'
import { createRequest } from '../createRequest.js'
import { readIdempotency } from '../idempotency.js'
import { readForm } from '../multipart.js'
import type { ZodApp, ZodTypeProvider } from '../zod.js'
import { createResponder, keepRunning, type ResponderServices, readTrace } from './respond.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The input before validation, for the echo. */
    sentInput: Readonly<Record<string, unknown>>
  }
}

export type CogServices = ResponderServices & {
  readonly catalog: Pick<Catalog, 'find'>
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
const Empty = z.object({})

export function cogRoutes(server: FastifyInstance, services: CogServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  serverRoutes(app, services.shutdown)
  predictionRoutes(app, services)
}

function serverRoutes(app: ZodApp, shutdown: () => void): void {
  const document = openApiDocument()
  const config = { access: 'public' } as const

  app.get(
    '/',
    { config, schema: { summary: 'The paths of this surface', replies: { 200: z.unknown() } } },
    () => index,
  )

  app.get(
    '/openapi.json',
    {
      config,
      schema: {
        summary: 'This surface as Cog’s clients expect it to be described',
        replies: { 200: z.unknown() },
      },
    },
    () => document,
  )

  app.post(
    '/shutdown',
    {
      schema: { summary: 'Stop the server (scope admin)', replies: { 200: Empty } },
      config: { access: 'admin' },
    },
    (_request, reply) => {
      reply.raw.once('finish', shutdown)
      return {}
    },
  )
}

function predictionRoutes(app: ZodApp, services: CogServices): void {
  const { predictions } = services
  const { respond, respondKnown, close } = createResponder(services)
  app.decorateRequest('sentInput')

  app.post('/predictions', { ...creation, schema: schemas.create }, async (request, reply) => {
    const created = toRequest(request.body, request, services)
    const { id } = await predictions.create(created)
    const onHangUp = created.idempotency === undefined ? () => cancel(id) : keepRunning
    return respond(id, request, reply, onHangUp)
  })

  app.put('/predictions/:id', { ...creation, schema: schemas.put }, async (request, reply) => {
    const { id } = request.params
    expectSameId(request.body.id, id)
    const known = await predictions.get(id)
    if (known) return respondKnown(known, request, reply)
    const created = { ...toRequest(request.body, request, services), id }
    await predictions.create(created).catch(ignoreConflict)
    return respond(id, request, reply, keepRunning)
  })

  app.post('/predictions/:id/cancel', { schema: schemas.cancel }, async (request, reply) => {
    const { id } = request.params
    const prediction = await predictions.get(id)
    if (prediction && !isTerminal(prediction)) await predictions.cancel(id)
    else reply.code(404)
    return {}
  })

  // A server that closes waits for its replies.
  app.addHook('preClose', async () => close())

  /** The client is gone: a cancel that fails is only logged. */
  async function cancel(id: string): Promise<void> {
    await predictions
      .cancel(id)
      .catch((error: unknown) => app.log.error({ err: error, prediction: id }, 'cancel failed'))
  }
}

const generated = { 200: PredictionResponse, 202: PredictionResponse }

const schemas = {
  create: { summary: 'Generate images', replies: generated, body: CogPredictionRequest },
  put: {
    summary: 'Generate images under an id of your own, once',
    replies: generated,
    params: IdPath,
    body: CogPredictionRequest,
  },
  cancel: { summary: 'Cancel a prediction', replies: { 200: Empty }, params: IdPath },
} as const

const creation = {
  preValidation: async (request: FastifyRequest) => {
    await readForm(request)
    request.sentInput = sentInput(request.body)
  },
  config: { creates: true },
} as const

function toRequest(
  body: CogPredictionRequest,
  request: FastifyRequest,
  services: CogServices,
): PredictionRequest {
  if (services.refusesWhenBusy && services.isSettingUp())
    throw new FluxdError('busy', 'Already running a prediction')
  const created = createRequest(
    findModel(services),
    request.sentInput,
    body,
    request,
    services.catalog,
  )
  return {
    ...created,
    webhook: created.webhook && { ...created.webhook, trace: readTrace(request) },
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

/** Another request was faster with the same id: it is the same prediction. */
function ignoreConflict(error: unknown): void {
  if (!(error instanceof FluxdError) || error.code !== 'conflict') throw error
}
