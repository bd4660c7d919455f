/** What paths and bodies call a model, a version or a deployment, and what is meant by it. */
import { z } from 'zod'
import type { Catalog } from '../../../catalog/catalog.js'
import { isVersionOf, type Model } from '../../../catalog/model.js'
import { owner, type ReplicateServices } from './context.js'
import { notFound, unknownVersion } from './errors.js'

export const NamePath = z.object({ owner: z.string(), name: z.string() })
export const VersionPath = NamePath.extend({ version: z.string() })
export const IdPath = z.object({ id: z.string() })

export type Target = { readonly model: Model; readonly deployment?: string }

/** Throws the 404 of a model that is not there. */
export function expectModel(catalog: Catalog, path: z.output<typeof NamePath>): Model {
  const model = catalog.find(path.owner, path.name)
  if (!model) throw notFound(`There is no model ${path.owner}/${path.name} here.`)
  return model
}

/**
 * The model that a `version` means: `owner/name`, `owner/name:version` or a version alone.
 * Throws the 422 of an unknown version.
 */
export function expectVersion(catalog: Catalog, version: string): Model {
  const [, name, id = version] = /^([^/:]+\/[^/:]+)(?::(.+))?$/.exec(version) ?? []
  if (name === undefined) return orUnknown(catalog.findVersion(id))
  const [modelOwner = '', modelName = ''] = name.split('/')
  const model = orUnknown(catalog.find(modelOwner, modelName))
  return id === version || isVersionOf(model, id) ? model : orUnknown(undefined)
}

/** Throws a 404 for a deployment that is not there, a 422 for one whose version is no more. */
export async function expectDeployed(
  { catalog, deployments }: Pick<ReplicateServices, 'catalog' | 'deployments'>,
  path: z.output<typeof NamePath>,
): Promise<Target> {
  const release = path.owner === owner ? await deployments.find(path.name) : undefined
  if (!release) throw notFound()
  const model = expectVersion(catalog, `${release.model}:${release.version}`)
  return { model, deployment: `${owner}/${release.name}` }
}

function orUnknown(model: Model | undefined): Model {
  if (!model) throw unknownVersion()
  return model
}
