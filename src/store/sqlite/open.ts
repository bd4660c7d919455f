/** The embedded store: one SQLite file in the data folder. */

import { createLocalSignals } from '../signals.js'
import type { Store } from '../store.js'
import { createApiKeyStore } from './apiKeys.js'
import { openDatabase } from './database.js'
import { createDeploymentStore } from './deployments.js'
import { createFileStore } from './files.js'
import { createPredictionStore } from './predictions.js'
import { createRunCounts } from './runCounts.js'
import { createSecretStore } from './secrets.js'
import { createDeliveryStore, createDeliveryTable } from './webhookDeliveries.js'

/**
 * Opens and migrates the file at `path`. Throws a sentence when it is damaged or of a newer
 * version.
 */
export function openSqliteStore(path: string): Store {
  const database = openDatabase(path)
  const signals = createLocalSignals()
  const deliveries = createDeliveryTable(database)
  return {
    predictions: createPredictionStore(database, deliveries, signals),
    deliveries: createDeliveryStore(database, deliveries),
    files: createFileStore(database),
    apiKeys: createApiKeyStore(database),
    deployments: createDeploymentStore(database),
    secrets: createSecretStore(database),
    runs: createRunCounts(database),
    signals,
    close: database.close,
  }
}
