/**
 * Replicate's HTTP API below `/v1`, with its errors as problems. Forms must be accepted already
 * (see multipart.ts); its clients say application/json for bodies that are empty.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { rememberRoutes } from '../allowedMethods.js'
import { wrongType } from '../bodyParser.js'
import { accountRoutes, trainingRoutes } from './account.js'
import type { ReplicateServices } from './context.js'
import { deploymentRoutes } from './deployments.js'
import { notFound, problem, sendProblem } from './errors.js'
import { fileRoutes } from './files.js'
import { modelRoutes } from './models.js'
import { predictionRoutes } from './predictions.js'
import { streamRoutes } from './stream.js'
import { deliveryRoutes } from './webhookDeliveries.js'

/** Registers everything below `/v1`, and `/p/{id}`, where `urls.web` leads. */
export function replicateRoutes(server: FastifyInstance, services: ReplicateServices): void {
  server.register(
    async (app) => {
      const listMethods = rememberRoutes(app)
      app.setErrorHandler(sendProblem)
      app.setNotFoundHandler((request, reply) => refuse(request, reply, listMethods))
      // The text of a search; everything else is JSON or a form.
      app.addContentTypeParser('text/plain', { parseAs: 'string' }, (request, body, done) => {
        if (request.method === 'QUERY') done(null, body)
        else done(wrongType('Expected content-type application/json but received text/plain'))
      })
      predictionRoutes(app, services)
      deliveryRoutes(app, services)
      modelRoutes(app, services)
      deploymentRoutes(app, services)
      fileRoutes(app, services)
      streamRoutes(app, services)
      accountRoutes(app, services)
      trainingRoutes(app)
    },
    { prefix: '/v1' },
  )
  server.get<{ Params: { id: string } }>('/p/:id', (request, reply) =>
    reply.redirect(`/v1/predictions/${encodeURIComponent(request.params.id)}`),
  )
}

function refuse(
  request: FastifyRequest,
  reply: FastifyReply,
  listMethods: (url: string) => readonly string[],
): void {
  const allowed = listMethods(request.url)
  if (allowed.length > 0) reply.header('allow', allowed.join(', '))
  sendProblem(
    allowed.length > 0 ? wrongMethod(request.method) : describeAbsence(request.url),
    request,
    reply,
  )
}

const wrongMethod = (method: string) =>
  problem(405, 'Method not allowed', `Method "${method}" not allowed.`)

/** One client takes a base URL with /v1 and another without, from the same environment variable. */
const describeAbsence = (url: string) =>
  url.startsWith('/v1/v1/')
    ? notFound(
        'The requested resource could not be found: the path begins with /v1 twice. ' +
          'Set the base URL of your client without /v1.',
      )
    : notFound()
