/** The server itself on `/v1`: its account, its hardware, and what it cannot do. */
import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { Model, type ModelCollection } from '../../../contract/model.js'
import { Account, Hardware, WebhookSecret, wholePage } from '../../../contract/replicate.js'
import type { ZodApp, ZodTypeProvider } from '../zod.js'
import { owner, type ReplicateServices } from './context.js'
import { notFound, problem } from './errors.js'
import { createModelPresenter, searchModels } from './models.js'
import { pageOf } from './pagination.js'

export const account: Account = {
  type: 'user',
  username: owner,
  name: owner,
  github_url: null,
  avatar_url: null,
}

/** There is one machine, and everything runs on it. */
export const hardware: readonly Hardware[] = [{ sku: 'local', name: 'This server' }]

const everything: ModelCollection = {
  name: 'Local models',
  slug: 'local',
  description: 'All models of this server',
  full_description: null,
}

const SearchQuery = z.object({
  query: z.string().default(''),
  limit: z.coerce.number().int().min(1).max(50).default(20),
})

const SearchResults = z.object({
  query: z.string(),
  models: z.array(z.object({ model: Model, metadata: z.object({}) })),
  collections: z.array(z.unknown()),
  pages: z.array(z.unknown()),
})

const Collection = z.object({
  name: z.string(),
  slug: z.string(),
  description: z.string(),
  full_description: z.string().nullable(),
})

export function accountRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  catalogRoutes(app, services)

  app.get(
    '/account',
    { schema: { summary: 'The account of this server', replies: { 200: Account } } },
    () => account,
  )

  app.get(
    '/hardware',
    { schema: { summary: 'What it runs on', replies: { 200: z.array(Hardware) } } },
    () => hardware,
  )

  app.get(
    '/webhooks/default/secret',
    { schema: { summary: 'What webhooks are signed with', replies: { 200: WebhookSecret } } },
    (): WebhookSecret => ({ key: services.webhookKey }),
  )
}

/** Other views of the models: the collection that holds all of them, and a search. */
function catalogRoutes(app: ZodApp, services: ReplicateServices): void {
  const { catalog } = services
  const presentModels = createModelPresenter(services)

  app.get(
    '/collections',
    {
      schema: {
        summary: 'The collections: there is one of everything',
        replies: { 200: pageOf(Collection) },
      },
    },
    () => wholePage([everything]),
  )

  app.get(
    '/collections/:slug',
    {
      schema: {
        summary: 'One collection, with its models',
        replies: { 200: Collection.extend({ models: z.array(Model) }) },
        params: z.object({ slug: z.string() }),
      },
    },
    async (request) => {
      if (request.params.slug !== everything.slug) throw notFound()
      return { ...everything, models: await presentModels(catalog.list(), request) }
    },
  )

  app.get(
    '/search',
    {
      schema: {
        summary: 'Models that contain a text',
        replies: { 200: SearchResults },
        querystring: SearchQuery,
      },
    },
    async (request) => {
      const { query, limit } = request.query
      const found = searchModels(catalog.list(), query).slice(0, limit)
      const models = (await presentModels(found, request)).map((model) => ({ model, metadata: {} }))
      return { query, models, collections: [], pages: [] }
    },
  )
}

const trainingPaths = [
  '/trainings',
  '/trainings/:id',
  '/trainings/:id/cancel',
  '/models/:owner/:name/versions/:version/trainings',
]

/** 404 and not 501: clients repeat a GET after a 5xx, several times at once. */
export function trainingRoutes(app: FastifyInstance): void {
  for (const url of trainingPaths)
    app.route({
      method: ['GET', 'POST'],
      url,
      handler: () => {
        throw problem(
          404,
          'Trainings are not supported',
          'fluxd runs models and does not train them. ' +
            'Train elsewhere and name the weights in replicate_weights or extra_lora.',
        )
      },
    })
}
