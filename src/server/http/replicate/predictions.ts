/** `/v1/predictions` and the other ways to create one (C-3.2 to C-3.5). */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { Prediction } from '../../../contract/prediction.js'
import {
  CreateNamedPrediction,
  CreatePrediction,
  ReplicatePrediction,
} from '../../../contract/replicate.js'
import { FluxdError } from '../../../errors.js'
import { sendQueueHeaders } from '../headers.js'
import { withWholeInput } from '../inputEcho.js'
import { readForm } from '../multipart.js'
import type { ZodApp, ZodTypeProvider } from '../zod.js'
import type { ReplicateServices } from './context.js'
import { createAdmission } from './createPrediction.js'
import { notFound } from './errors.js'
import { expectDeployed, expectModel, expectVersion, IdPath, NamePath } from './lookup.js'
import { invalidCursor, pageOf, pageSize, toPage } from './pagination.js'
import { type OutputForm, parsePrefer } from './preferHeader.js'
import { createPresenter, type Presenter } from './present.js'

/** An instant as RFC 3339 writes it; a plus that a client forgot to escape arrives as a space. */
const instant = z
  .string()
  .transform((text) => new Date(text.replace(' ', '+')))
  .refine((date) => !Number.isNaN(date.getTime()), 'Expected a time such as 2026-01-02T03:04:05Z')

const ListQuery = z.object({
  cursor: z.string().optional(),
  created_after: instant.optional(),
  created_before: instant.optional(),
  source: z.enum(['api', 'web']).optional(),
})

const created = { 201: ReplicatePrediction, 202: ReplicatePrediction }

const schemas = {
  create: {
    summary: 'Generate images with a version or a named model; Prefer: wait waits for them',
    replies: created,
    body: CreatePrediction,
  },
  createOfModel: {
    summary: 'Generate images with a named model',
    replies: created,
    body: CreateNamedPrediction,
    params: NamePath,
  },
  createOfDeployment: {
    summary: 'Generate images with a deployment',
    replies: created,
    body: CreateNamedPrediction,
    params: NamePath,
  },
  list: {
    summary: 'The predictions, newest first',
    replies: { 200: pageOf(ReplicatePrediction) },
    querystring: ListQuery,
  },
  get: { summary: 'One prediction', replies: { 200: ReplicatePrediction }, params: IdPath },
  cancel: {
    summary: 'Cancel a prediction',
    replies: { 200: ReplicatePrediction },
    params: IdPath,
  },
} as const

const creation = { preValidation: readForm, config: { creates: true } } as const

export function predictionRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const presenter = createPresenter(services)
  creationRoutes(app, services, presenter)
  readRoutes(app, services, presenter)
}

function creationRoutes(app: ZodApp, services: ReplicateServices, presenter: Presenter): void {
  const { catalog } = services
  const admit = createAdmission(services, presenter)

  app.post('/predictions', { ...creation, schema: schemas.create }, (request, reply) => {
    const { version, ...body } = request.body
    return admit(expectVersion(catalog, version), body, request, reply)
  })

  app.post(
    '/models/:owner/:name/predictions',
    { ...creation, schema: schemas.createOfModel },
    (request, reply) => {
      const model = expectModel(catalog, request.params)
      return admit({ model, version: model.version }, request.body, request, reply)
    },
  )

  app.post(
    '/deployments/:owner/:name/predictions',
    { ...creation, schema: schemas.createOfDeployment },
    async (request, reply) =>
      admit(await expectDeployed(services, request.params), request.body, request, reply),
  )
}

function readRoutes(app: ZodApp, services: ReplicateServices, presenter: Presenter): void {
  const { predictions, publicUrl } = services

  app.get('/predictions', { schema: schemas.list }, async (request) => {
    const { cursor, created_after, created_before, source } = request.query
    // There is no website that could have made any.
    if (source === 'web') return toPage({ results: [] }, request, publicUrl)
    const { predictions: found, ...cursors } = await predictions
      .list({
        cursor,
        limit: pageSize,
        createdAfter: created_after,
        createdBefore: created_before,
      })
      .catch(explainCursor)
    const results = found.map((prediction) => presenter.presentBriefly(prediction, request))
    return toPage({ results, ...cursors }, request, publicUrl)
  })

  app.get('/predictions/:id', { schema: schemas.get }, async (request, reply) => {
    const { output } = parsePrefer(request.headers.prefer)
    const prediction = orNotFound(await predictions.get(request.params.id))
    sendQueueHeaders(reply, await predictions.queueEstimate(prediction.id))
    return presentWhole(prediction, request, reply, output)
  })

  app.post('/predictions/:id/cancel', { schema: schemas.cancel }, async (request, reply) => {
    const { output } = parsePrefer(request.headers.prefer)
    const prediction = orNotFound(await predictions.cancel(request.params.id))
    return presentWhole(prediction, request, reply, output)
  })

  async function presentWhole(
    prediction: Prediction,
    request: FastifyRequest,
    reply: FastifyReply,
    output: OutputForm | undefined,
  ) {
    const body = await presenter.present(prediction, request, output)
    return withWholeInput(body, prediction, services.files, reply)
  }
}

/** The other parts of the query are checked already. */
function explainCursor(error: unknown): never {
  throw error instanceof FluxdError && error.code === 'invalid_input' ? invalidCursor() : error
}

function orNotFound(prediction: Prediction | undefined): Prediction {
  if (!prediction) throw notFound()
  return prediction
}
