/**
 * `/v1/deployments`: names for one version of a model, kept in the store (C-3.12).
 */
import type { FastifyInstance } from 'fastify'
import type { z } from 'zod'
import type { Catalog } from '../../../catalog/catalog.js'
import { CreateDeployment, Deployment, UpdateDeployment } from '../../../contract/deployment.js'
import type { StoredDeployment } from '../../../store/deploymentStore.js'
import type { ZodTypeProvider } from '../zod.js'
import { account } from './account.js'
import { owner, type ReplicateServices } from './context.js'
import { notFound, problem } from './errors.js'
import { expectVersion, NamePath } from './lookup.js'
import { CursorQuery, cutPage, pageOf, toPage } from './pagination.js'

const change = { config: { access: 'admin' } } as const

export function deploymentRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { deployments, catalog, publicUrl } = services

  async function expectDeployment(path: z.output<typeof NamePath>): Promise<StoredDeployment> {
    const deployment = path.owner === owner ? await deployments.find(path.name) : undefined
    if (!deployment) throw notFound()
    return deployment
  }

  app.get(
    '/deployments',
    {
      schema: {
        summary: 'The deployments',
        replies: { 200: pageOf(Deployment) },
        querystring: CursorQuery,
      },
    },
    async (request) => {
      const { results, ...cursors } = cutPage(await deployments.list(), request.query.cursor)
      return toPage({ results: results.map(toDeployment), ...cursors }, request, publicUrl)
    },
  )

  app.post('/deployments', { schema: schemas.create, ...change }, async (request) => {
    const release = createRelease(request.body)
    assertRunnable(catalog, release)
    if (await deployments.insert(release)) return toDeployment(release)
    throw alreadyExists(release.name)
  })

  app.get('/deployments/:owner/:name', { schema: schemas.get }, async (request) =>
    toDeployment(await expectDeployment(request.params)),
  )

  app.patch('/deployments/:owner/:name', { schema: schemas.update, ...change }, async (request) => {
    const current = await expectDeployment(request.params)
    const release = changeRelease(current, request.body, catalog)
    assertRunnable(catalog, release)
    await deployments.update(release)
    return toDeployment(release)
  })

  app.delete(
    '/deployments/:owner/:name',
    { schema: schemas.remove, ...change },
    async (request, reply) => {
      await deployments.remove((await expectDeployment(request.params)).name)
      return reply.code(204).send()
    },
  )
}

const schemas = {
  create: {
    summary: 'Add a deployment (scope admin)',
    replies: { 200: Deployment },
    body: CreateDeployment,
  },
  get: { summary: 'One deployment', replies: { 200: Deployment }, params: NamePath },
  update: {
    summary: 'Change a deployment (scope admin)',
    replies: { 200: Deployment },
    params: NamePath,
    body: UpdateDeployment,
  },
  remove: {
    summary: 'Remove a deployment (scope admin)',
    replies: { 204: null },
    params: NamePath,
  },
} as const

const alreadyExists = (name: string) =>
  problem(
    422,
    'Deployment already exists',
    `Expected a new name but there is a deployment ${owner}/${name}`,
  )

const createRelease = (body: CreateDeployment): StoredDeployment => ({
  name: body.name,
  model: body.model,
  version: body.version,
  hardware: body.hardware,
  minInstances: body.min_instances,
  maxInstances: body.max_instances,
  number: 1,
  createdAt: new Date(),
})

/** Another model without a version means the version that it has now. */
function changeRelease(
  current: StoredDeployment,
  changes: UpdateDeployment,
  catalog: Catalog,
): StoredDeployment {
  const { model = current.model } = changes
  const known = model === current.model ? current.version : expectVersion(catalog, model).version
  return {
    name: current.name,
    model,
    version: changes.version ?? known,
    hardware: changes.hardware ?? current.hardware,
    minInstances: changes.min_instances ?? current.minInstances,
    maxInstances: changes.max_instances ?? current.maxInstances,
    number: current.number + 1,
    createdAt: new Date(),
  }
}

/** Throws the 422 of a release that names an unknown version or impossible instances. */
function assertRunnable(catalog: Catalog, release: StoredDeployment): void {
  expectVersion(catalog, `${release.model}:${release.version}`)
  if (release.minInstances <= release.maxInstances) return
  throw problem(
    422,
    'Invalid deployment',
    'Expected min_instances to be at most max_instances ' +
      `but received ${release.minInstances} and ${release.maxInstances}`,
  )
}

const toDeployment = (release: StoredDeployment): Deployment => ({
  owner,
  name: release.name,
  current_release: {
    number: release.number,
    model: release.model,
    version: release.version,
    created_at: release.createdAt.toISOString(),
    created_by: account,
    configuration: {
      hardware: release.hardware,
      min_instances: release.minInstances,
      max_instances: release.maxInstances,
    },
  },
})
