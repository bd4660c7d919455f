/** The port of deployments: the current release of each. */
export type StoredDeployment = {
  readonly name: string
  /** Counts the changes; the first is 1. */
  readonly number: number
  /** `owner/name`. */
  readonly model: string
  readonly version: string
  readonly hardware: string
  readonly minInstances: number
  readonly maxInstances: number
  /** Of this release. */
  readonly createdAt: Date
}

export type DeploymentStore = {
  /** False when the name is taken. */
  readonly insert: (deployment: StoredDeployment) => Promise<boolean>
  readonly find: (name: string) => Promise<StoredDeployment | undefined>
  readonly list: () => Promise<readonly StoredDeployment[]>
  readonly update: (deployment: StoredDeployment) => Promise<void>
  /** Whether it was there. */
  readonly remove: (name: string) => Promise<boolean>
}
