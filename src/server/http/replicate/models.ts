/** `/v1/models`: the models of the catalog, with their versions (C-3.2, C-3.12). */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { isVersionOf, type Model } from '../../../catalog/model.js'
import { inputSchemaOf } from '../../../catalog/resolveInput.js'
import {
  CreateModel,
  cogVersion,
  type ModelVersion,
  UpdateModel,
  versionSchema,
  type Model as WireModel,
} from '../../../contract/model.js'
import { wholePage } from '../../../contract/page.js'
import type { ZodTypeProvider } from '../zod.js'
import type { ReplicateServices } from './context.js'
import { notFound, problem } from './errors.js'
import { expectModel, NamePath, VersionPath } from './lookup.js'
import { cutPage, toPage } from './pagination.js'

const ListQuery = z.object({
  cursor: z.string().optional(),
  sort_by: z.enum(['model_created_at', 'latest_version_created_at']).optional(),
  sort_direction: z.enum(['asc', 'desc']).optional(),
})

/** Who makes predictions need not be who decides what there is to predict with. */
const change = { config: { access: 'admin' } } as const

export function modelRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { catalog, publicUrl } = services
  const presentAll = createModelPresenter(services)
  const toVersion = createVersions()
  const presentOne = async (model: Model, request: FastifyRequest) =>
    (await presentAll([model], request))[0]!

  async function present(
    models: readonly Model[],
    cursor: string | undefined,
    request: FastifyRequest,
  ) {
    const { results, ...cursors } = cutPage(models, cursor)
    return toPage({ results: await presentAll(results, request), ...cursors }, request, publicUrl)
  }

  app.get('/models', { schema: { querystring: ListQuery } }, (request) => {
    const { cursor, sort_direction } = request.query
    const models = sortByAge(catalog.list())
    return present(sort_direction === 'asc' ? models.reverse() : models, cursor, request)
  })

  app.route({
    method: 'QUERY',
    url: '/models',
    bodyLimit: longestQuery,
    handler: (request) =>
      present(searchModels(catalog.list(), readQuery(request.body)), undefined, request),
  })

  app.post('/models', { schema: { body: CreateModel }, ...change }, async (request, reply) => {
    const { owner, name, description, weights_url } = request.body
    const model = await catalog.add(
      { owner, name },
      {
        ...(description && { description }),
        ...(weights_url && { loras: [{ source: weights_url }] }),
      },
    )
    return reply.code(201).send(await presentOne(model, request))
  })

  app.get('/models/:owner/:name', { schema: { params: NamePath } }, (request) =>
    presentOne(expectModel(catalog, request.params), request),
  )

  app.patch(
    '/models/:owner/:name',
    { schema: { params: NamePath, body: UpdateModel }, ...change },
    async (request) => {
      expectModel(catalog, request.params)
      const { description, readme, weights_url } = request.body
      const model = await catalog.update(request.params, {
        ...(description != null && { description }),
        ...(readme != null && { readme }),
        ...(weights_url && { loras: [{ source: weights_url }] }),
      })
      return presentOne(model, request)
    },
  )

  app.delete(
    '/models/:owner/:name',
    { schema: { params: NamePath }, ...change },
    async (request, reply) => {
      expectModel(catalog, request.params)
      await catalog.remove(request.params)
      return reply.code(204).send()
    },
  )

  app.get('/models/:owner/:name/readme', { schema: { params: NamePath } }, (request, reply) =>
    reply.type('text/plain; charset=utf-8').send(expectModel(catalog, request.params).readme ?? ''),
  )

  app.get('/models/:owner/:name/examples', { schema: { params: NamePath } }, (request) => {
    expectModel(catalog, request.params)
    return wholePage([])
  })

  app.get('/models/:owner/:name/versions', { schema: { params: NamePath } }, (request) =>
    wholePage([toVersion(expectModel(catalog, request.params))]),
  )

  app.get(
    '/models/:owner/:name/versions/:version',
    { schema: { params: VersionPath } },
    (request) =>
      toVersion(expectVersionOf(expectModel(catalog, request.params), request.params.version)),
  )

  app.delete(
    '/models/:owner/:name/versions/:version',
    { schema: { params: VersionPath } },
    (request) => {
      expectVersionOf(expectModel(catalog, request.params), request.params.version)
      throw problem(
        422,
        'Version cannot be deleted',
        'A version is what its model comes to; delete the model instead.',
      )
    },
  )
}

/** Bytes of what models are searched for. */
const longestQuery = 4096

/** Newest first. */
const sortByAge = (models: readonly Model[]): Model[] =>
  [...models].sort((a, b) => b.createdAt.getTime() - a.createdAt.getTime())

/** The models that have every word of `query` in their name, description or trigger word. */
export function searchModels(models: readonly Model[], query: string): readonly Model[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean)
  return models.filter(({ owner, name, description, triggerWord = '' }) => {
    const text = `${owner}/${name} ${description} ${triggerWord}`.toLowerCase()
    return words.every((word) => text.includes(word))
  })
}

/** One client sends the text, another the text as JSON; both label it text/plain. */
function readQuery(body: unknown): string {
  const text = typeof body === 'string' ? body.trim() : ''
  try {
    const parsed: unknown = JSON.parse(text)
    return typeof parsed === 'string' ? parsed : text
  } catch {
    return text
  }
}

export function createModelPresenter({ runs, publicUrl }: ReplicateServices) {
  const toVersion = createVersions()
  return async (models: readonly Model[], request: FastifyRequest): Promise<WireModel[]> => {
    const counts = await runs.count()
    return models.map((model) => {
      const name = `${model.owner}/${model.name}`
      const url = `${publicUrl(request)}/v1/models/${name}`
      return toWireModel(model, toVersion(model), { url, runCount: counts.get(name) ?? 0 })
    })
  }
}

const toWireModel = (
  model: Model,
  version: ModelVersion,
  { url, runCount }: { readonly url: string; readonly runCount: number },
): WireModel => ({
  url,
  owner: model.owner,
  name: model.name,
  description: model.description,
  visibility: 'private',
  is_official: false,
  github_url: null,
  paper_url: null,
  license_url: null,
  cover_image_url: null,
  run_count: runCount,
  default_example: null,
  latest_version: version,
})

/** Tells of versions; the schema of each is made once, as a changed model is another object. */
function createVersions(): (model: Model) => ModelVersion {
  const known = new WeakMap<Model, ModelVersion>()
  return (model) => {
    const version = known.get(model) ?? describeVersion(model)
    known.set(model, version)
    return version
  }
}

const describeVersion = (model: Model): ModelVersion => ({
  id: model.version,
  created_at: model.createdAt.toISOString(),
  cog_version: cogVersion,
  openapi_schema: versionSchema(inputSchemaOf(model)),
})

function expectVersionOf(model: Model, version: string): Model {
  if (!isVersionOf(model, version)) throw notFound()
  return model
}
