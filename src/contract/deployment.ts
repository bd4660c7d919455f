/** Deployments on `/v1`: a name for one version of a model (C-3.12). */
import { z } from 'zod'
import { Account } from './replicate.js'

const configuration = {
  hardware: z.string().min(1).max(100),
  min_instances: z.int().min(0).max(5),
  max_instances: z.int().min(0).max(20),
}

export const CreateDeployment = z.strictObject({
  /** Part of a path. */
  name: z
    .string()
    .regex(
      /^\w[\w.-]{0,63}$/,
      'Expected up to 64 letters, digits and -_. that begin with no - or .',
    ),
  model: z.string(),
  version: z.string(),
  ...configuration,
})
export type CreateDeployment = z.output<typeof CreateDeployment>

export const UpdateDeployment = z
  .strictObject({ model: z.string(), version: z.string(), ...configuration })
  .partial()
  .meta({ title: 'UpdateDeployment' })
export type UpdateDeployment = z.output<typeof UpdateDeployment>

export const Deployment = z
  .object({
    owner: z.string(),
    name: z.string(),
    current_release: z.object({
      number: z.int(),
      model: z.string(),
      version: z.string(),
      created_at: z.string().meta({ format: 'date-time' }),
      created_by: Account,
      configuration: z.object(configuration),
    }),
  })
  .meta({ title: 'Deployment' })
export type Deployment = z.output<typeof Deployment>
