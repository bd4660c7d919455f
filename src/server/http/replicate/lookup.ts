/** Finds the model, version or deployment that a path or a body names. */
import { z } from 'zod'
import type { Catalog } from '../../../catalog/catalog.js'
import { isVersionOf, type Model } from '../../../catalog/model.js'
import { owner, type ReplicateServices } from './context.js'
import { notFound, unknownVersion } from './errors.js'

export const NamePath = z.object({ owner: z.string(), name: z.string() })
export const VersionPath = NamePath.extend({ version: z.string() })
export const IdPath = z.object({ id: z.string() })

export type Target = {
  readonly model: Model
  /** The id under which the client knows the version; replies repeat it. */
  readonly version: string
  readonly deployment?: string
}

/** Throws the 404 of a model that is not there. */
export function expectModel(catalog: Catalog, path: z.output<typeof NamePath>): Model {
  const model = catalog.find(path.owner, path.name)
  if (!model) throw notFound(`There is no model ${path.owner}/${path.name} here.`)
  return model
}

/**
 * What a `version` means: `owner/name`, `owner/name:version` or a version alone.
 * Throws the 422 of an unknown version.
 */
export function expectVersion(catalog: Catalog, version: string): Target {
  const [, name, id] = /^([^/:]+\/[^/:]+)(?::(.+))?$/.exec(version) ?? []
  if (name === undefined) {
    const model = orUnknown(catalog.findVersion(version))
    return { model, version: completeId(model, version) }
  }
  const [modelOwner = '', modelName = ''] = name.split('/')
  const model = orUnknown(catalog.find(modelOwner, modelName))
  if (id === undefined) return { model, version: model.version }
  if (!isVersionOf(model, id)) throw unknownVersion()
  return { model, version: completeId(model, id) }
}

/** The id in a reply: the one that was asked for, unless it is the beginning of a digest. */
export const completeId = ({ version }: Model, id: string) =>
  /^[0-9a-f]{8,63}$/.test(id) ? version : id

/** Throws the 404 of an unknown deployment, and the 422 of one whose version no longer exists. */
export async function expectDeployed(
  { catalog, deployments }: Pick<ReplicateServices, 'catalog' | 'deployments'>,
  path: z.output<typeof NamePath>,
): Promise<Target> {
  const release = path.owner === owner ? await deployments.find(path.name) : undefined
  if (!release) throw notFound()
  const target = expectVersion(catalog, `${release.model}:${release.version}`)
  return { ...target, deployment: `${owner}/${release.name}` }
}

function orUnknown(model: Model | undefined): Model {
  if (!model) throw unknownVersion()
  return model
}
