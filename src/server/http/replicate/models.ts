/**
 * `/v1/models`: the models of the catalog, with their versions (C-3.2, C-3.12).
 */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { isVersionOf, type Model } from '../../../catalog/model.js'
import { inputSchemaOf } from '../../../catalog/resolveInput.js'
import {
  CreateModel,
  cogVersion,
  ModelVersion,
  UpdateModel,
  versionSchema,
  Model as WireModel,
} from '../../../contract/model.js'
import { ReplicatePrediction, wholePage } from '../../../contract/replicate.js'
import type { ZodApp, ZodTypeProvider } from '../zod.js'
import type { ReplicateServices } from './context.js'
import { notFound } from './errors.js'
import { completeId, expectModel, NamePath, VersionPath } from './lookup.js'
import { cutPage, pageOf, toPage } from './pagination.js'

const ListQuery = z.object({
  cursor: z.string().optional(),
  sort_by: z.enum(['model_created_at', 'latest_version_created_at']).optional(),
  sort_direction: z.enum(['asc', 'desc']).optional(),
})

const schemas = {
  list: {
    summary: 'The named models',
    replies: { 200: pageOf(WireModel) },
    querystring: ListQuery,
  },
  create: { summary: 'Add a model (scope admin)', replies: { 201: WireModel }, body: CreateModel },
  get: { summary: 'One model', replies: { 200: WireModel }, params: NamePath },
  update: {
    summary: 'Change a model (scope admin)',
    replies: { 200: WireModel },
    params: NamePath,
    body: UpdateModel,
  },
  remove: { summary: 'Remove a model (scope admin)', replies: { 204: null }, params: NamePath },
  readme: {
    summary: 'What a model is, as markdown',
    replies: { 200: 'text/plain' },
    params: NamePath,
  },
  examples: {
    summary: 'Its examples, of which there are none',
    replies: { 200: pageOf(ReplicatePrediction) },
    params: NamePath,
  },
  versions: {
    summary: 'The versions of a model',
    replies: { 200: pageOf(ModelVersion) },
    params: NamePath,
  },
  version: {
    summary: 'One version, with the schema of its input',
    replies: { 200: ModelVersion },
    params: VersionPath,
  },
  removeVersion: {
    summary: 'Remove a version and its model (scope admin)',
    replies: { 202: null },
    params: VersionPath,
  },
} as const

/** What there is to predict with is the operator's to decide. */
const change = { config: { access: 'admin' } } as const

export function modelRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const presentAll = createModelPresenter(services)
  listRoutes(app, services, presentAll)
  oneModelRoutes(app, services, presentAll)
  versionRoutes(app, services)
}

function listRoutes(
  app: ZodApp,
  { catalog, publicUrl }: ReplicateServices,
  presentAll: PresentModels,
): void {
  async function present(
    models: readonly Model[],
    cursor: string | undefined,
    request: FastifyRequest,
  ) {
    const { results, ...cursors } = cutPage(models, cursor)
    return toPage({ results: await presentAll(results, request), ...cursors }, request, publicUrl)
  }

  app.get('/models', { schema: schemas.list }, (request) => {
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
}

function oneModelRoutes(
  app: ZodApp,
  { catalog }: ReplicateServices,
  presentAll: PresentModels,
): void {
  const presentOne = async (model: Model, request: FastifyRequest) =>
    (await presentAll([model], request))[0]!

  app.post('/models', { schema: schemas.create, ...change }, async (request, reply) => {
    const { owner, name, visibility, description, weights_url } = request.body
    const model = await catalog.add(
      { owner, name },
      {
        visibility,
        ...(description && { description }),
        ...(weights_url && { loras: [{ source: weights_url }] }),
      },
    )
    return reply.code(201).send(await presentOne(model, request))
  })

  app.get('/models/:owner/:name', { schema: schemas.get }, (request) =>
    presentOne(expectModel(catalog, request.params), request),
  )

  app.patch('/models/:owner/:name', { schema: schemas.update, ...change }, async (request) => {
    expectModel(catalog, request.params)
    const { description, readme, weights_url } = request.body
    const model = await catalog.update(request.params, {
      ...(description != null && { description }),
      ...(readme != null && { readme }),
      ...(weights_url && { loras: [{ source: weights_url }] }),
    })
    return presentOne(model, request)
  })

  app.delete(
    '/models/:owner/:name',
    { schema: schemas.remove, ...change },
    async (request, reply) => {
      expectModel(catalog, request.params)
      await catalog.remove(request.params)
      return reply.code(204).send()
    },
  )

  app.get('/models/:owner/:name/readme', { schema: schemas.readme }, (request, reply) =>
    reply.type('text/plain; charset=utf-8').send(expectModel(catalog, request.params).readme ?? ''),
  )

  app.get('/models/:owner/:name/examples', { schema: schemas.examples }, (request) => {
    expectModel(catalog, request.params)
    return wholePage([])
  })
}

function versionRoutes(app: ZodApp, { catalog }: ReplicateServices): void {
  const toVersion = createVersions()

  app.get('/models/:owner/:name/versions', { schema: schemas.versions }, (request) =>
    wholePage([toVersion(expectModel(catalog, request.params))]),
  )

  app.get('/models/:owner/:name/versions/:version', { schema: schemas.version }, (request) => {
    const model = expectModel(catalog, request.params)
    const version = toVersion(expectVersionOf(model, request.params.version))
    return { ...version, id: completeId(model, request.params.version) }
  })

  app.delete(
    '/models/:owner/:name/versions/:version',
    { schema: schemas.removeVersion, ...change },
    async (request, reply) => {
      expectVersionOf(expectModel(catalog, request.params), request.params.version)
      // A model has one version; without it there is nothing to serve.
      await catalog.remove(request.params)
      return reply.code(202).send()
    },
  )
}

/** Bytes of a search text. */
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

export type PresentModels = (
  models: readonly Model[],
  request: FastifyRequest,
) => Promise<WireModel[]>

export function createModelPresenter({ runs, publicUrl }: ReplicateServices): PresentModels {
  const toVersion = createVersions()
  return async (models, request) => {
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
  visibility: model.visibility,
  is_official: false,
  github_url: null,
  paper_url: null,
  license_url: null,
  cover_image_url: null,
  run_count: runCount,
  default_example: null,
  latest_version: version,
})

/** Describes versions; each schema is made once, as a changed model is another object. */
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
