/** What a server keeps and uses besides its engine: the store, files, models and LoRAs. */
import { join } from 'node:path'
import { type Catalog, openCatalog } from '../catalog/catalog.js'
import type { Config } from '../config/config.js'
import { createFiles, type Files } from '../files/files.js'
import { findBuiltinIn } from '../loras/bundled.js'
import { createLibrary, type Library } from '../loras/loraCache.js'
import { createMediaClient, type MediaClient } from '../net/fetchMedia.js'
import { createGuardedClient, type GuardedClient } from '../net/guardedClient.js'
import { allowHosts } from '../net/publicAddress.js'
import { createKeyStore } from '../store/sqlite/apiKeys.js'
import { type Database, openDatabase } from '../store/sqlite/database.js'
import { takeLock } from '../store/sqlite/dataDirLock.js'
import { createFileStore } from '../store/sqlite/files.js'
import { createKeys, type Keys } from './auth/apiKeys.js'

export type Services = {
  readonly database: Database
  readonly files: Files
  readonly catalog: Catalog
  /** Who may use this server. */
  readonly keys: Keys
  readonly library: Library
  /** Fetches what inputs name. */
  readonly media: MediaClient
  /** For URLs that clients name: webhooks and uploads. */
  readonly client: GuardedClient
  readonly close: () => Promise<void>
}

export type ServiceSettings = Pick<
  Config,
  | 'dataDir'
  | 'apiKey'
  | 'filesBytes'
  | 'catalog'
  | 'checkpoints'
  | 'hosts'
  | 'allowedHosts'
  | 'loras'
>

/** Opens everything in `config.dataDir`; throws when another server has it or the store is damaged. */
export async function openServices(config: ServiceSettings): Promise<Services> {
  const unlock = takeLock(join(config.dataDir, 'fluxd.lock'))
  try {
    const catalog = await openCatalog({ folders: config.catalog, checkpoints: config.checkpoints })
    const services = createServices(config, catalog)
    await services.files.removeStrays()
    const close = async () => {
      await services.close()
      unlock()
    }
    return { ...services, close }
  } catch (error) {
    unlock()
    throw error
  }
}

/** The services themselves, for whoever knows that nobody else uses `config.dataDir`. */
export function createServices(config: ServiceSettings, catalog: Catalog): Services {
  const allowAddress = allowHosts(config.allowedHosts)
  const database = openDatabase(join(config.dataDir, 'fluxd.sqlite'))
  const files = createFiles({
    folder: join(config.dataDir, 'files'),
    store: createFileStore(database),
    quota: config.filesBytes,
  })
  const keys = createKeys(createKeyStore(database), config.apiKey?.reveal())
  const library = createLibrary(config, { builtin: findBuiltinIn(config.loras.builtin) })
  const media = createMediaClient({ allowAddress })
  const client = createGuardedClient({ allowAddress })
  const close = async () => {
    await Promise.all([library.close(), media.close(), client.close()])
    database.close()
  }
  return { database, files, catalog, keys, library, media, client, close }
}
