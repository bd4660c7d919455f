/** `/v1/deployments`: names for one version of a model, kept in the store (C-3.12). */
import type { FastifyInstance } from 'fastify'
import type { z } from 'zod'
import {
  CreateDeployment,
  type Deployment,
  UpdateDeployment,
} from '../../../contract/deployment.js'
import type { StoredDeployment } from '../../../store/deploymentStore.js'
import type { ZodTypeProvider } from '../zod.js'
import { account } from './account.js'
import { owner, type ReplicateServices } from './context.js'
import { notFound, problem } from './errors.js'
import { expectVersion, NamePath } from './lookup.js'
import { CursorQuery, cutPage, toPage } from './pagination.js'

const change = { config: { access: 'admin' } } as const

export function deploymentRoutes(server: FastifyInstance, services: ReplicateServices): void {
  const app = server.withTypeProvider<ZodTypeProvider>()
  const { deployments, catalog, publicUrl } = services

  async function expectDeployment(path: z.output<typeof NamePath>): Promise<StoredDeployment> {
    const deployment = path.owner === owner ? await deployments.find(path.name) : undefined
    if (!deployment) throw notFound()
    return deployment
  }

  /** Throws unless the release can run. */
  function check(release: StoredDeployment): StoredDeployment {
    expectVersion(catalog, `${release.model}:${release.version}`)
    if (release.minInstances <= release.maxInstances) return release
    throw problem(
      422,
      'Invalid deployment',
      `Expected min_instances to be at most max_instances but received ${release.minInstances} and ${release.maxInstances}`,
    )
  }

  app.get('/deployments', { schema: { querystring: CursorQuery } }, async (request) => {
    const { results, ...cursors } = cutPage(await deployments.list(), request.query.cursor)
    return toPage({ results: results.map(toDeployment), ...cursors }, request, publicUrl)
  })

  app.post('/deployments', { schema: { body: CreateDeployment }, ...change }, async (request) => {
    const { min_instances, max_instances, ...fields } = request.body
    const release = check({
      ...fields,
      minInstances: min_instances,
      maxInstances: max_instances,
      number: 1,
      createdAt: new Date(),
    })
    if (await deployments.insert(release)) return toDeployment(release)
    throw problem(
      422,
      'Deployment already exists',
      `Expected a new name but there is a deployment ${owner}/${release.name}`,
    )
  })

  app.get('/deployments/:owner/:name', { schema: { params: NamePath } }, async (request) =>
    toDeployment(await expectDeployment(request.params)),
  )

  app.patch(
    '/deployments/:owner/:name',
    { schema: { params: NamePath, body: UpdateDeployment }, ...change },
    async (request) => {
      const current = await expectDeployment(request.params)
      const { min_instances, max_instances, ...fields } = request.body
      const release = check({
        ...current,
        ...(fields.version !== undefined && { version: fields.version }),
        ...(fields.hardware !== undefined && { hardware: fields.hardware }),
        minInstances: min_instances ?? current.minInstances,
        maxInstances: max_instances ?? current.maxInstances,
        number: current.number + 1,
        createdAt: new Date(),
      })
      await deployments.update(release)
      return toDeployment(release)
    },
  )

  app.delete(
    '/deployments/:owner/:name',
    { schema: { params: NamePath }, ...change },
    async (request, reply) => {
      await deployments.remove((await expectDeployment(request.params)).name)
      return reply.code(204).send()
    },
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
