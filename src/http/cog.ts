/**
 * The surface of a Cog container, first slice: synchronous predictions with data URIs, one at a
 * time in order of arrival. A failed prediction is still HTTP 200, with status "failed"; a client
 * that hangs up cancels its prediction (replicate-contract §2).
 */
import type { FastifyInstance } from 'fastify'
import { openApiDocument } from '../contract/openapi.js'
import { PredictionRequest, sentInput, toPredictionResponse } from '../contract/prediction.js'
import { FluxdError } from '../errors.js'
import type { Predictions } from '../predictions/service.js'
import { disconnectSignal } from './disconnect.js'
import type { ZodTypeProvider } from './zod.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The input before validation, for the echo. */
    sentInput: Readonly<Record<string, unknown>>
  }
}

/** What `GET /` tells; only what is there is listed. */
const index = {
  cog_version: '0.16.9',
  openapi_url: '/openapi.json',
  healthcheck_url: '/health-check',
  predictions_url: '/predictions',
}

export function cogRoutes(server: FastifyInstance, predictions: Predictions): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const document = openApiDocument()
  app.decorateRequest('sentInput')

  app.get('/', () => index)

  app.get('/openapi.json', () => document)

  app.post(
    '/predictions',
    {
      schema: { body: PredictionRequest },
      preValidation: async (request) => {
        refuseAsync(request.headers.prefer)
        request.sentInput = sentInput(request.body)
      },
    },
    async (request, reply) => {
      const { input, id, created_at: createdAt } = request.body
      const origin = { id, createdAt, input: request.sentInput }
      const prediction = await predictions.run(input, origin, disconnectSignal(reply))
      return toPredictionResponse(prediction)
    },
  )
}

/** Cog compares the header by exact equality; any other preference is ignored. */
function refuseAsync(prefer: string | string[] | undefined): void {
  if (prefer === 'respond-async')
    throw new FluxdError('not_supported', 'Prefer: respond-async is not supported yet')
}
