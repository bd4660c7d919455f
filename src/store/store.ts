/** Everything that a fluxd keeps but the bytes of files: the ports that an adapter implements. */
import type { ApiKeyStore } from './apiKeyStore.js'
import type { DeliveryStore } from './deliveryStore.js'
import type { DeploymentStore } from './deploymentStore.js'
import type { FileStore } from './fileStore.js'
import type { PredictionStore } from './predictionStore.js'
import type { SecretStore } from './secretStore.js'
import type { Signals } from './signals.js'

export type RunCounts = {
  /** How often each model was run, by `owner/name`; a model without a run is absent. */
  readonly count: () => Promise<ReadonlyMap<string, number>>
}

export type Store = {
  readonly predictions: PredictionStore
  readonly deliveries: DeliveryStore
  readonly files: FileStore
  readonly apiKeys: ApiKeyStore
  readonly deployments: DeploymentStore
  readonly secrets: SecretStore
  readonly runs: RunCounts
  readonly signals: Signals
  /** Writes what is still to be written. */
  readonly close: () => void
}
