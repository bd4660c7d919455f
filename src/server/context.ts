/** What a server keeps and uses besides its worker: the store, files, models and LoRAs. */
import { join } from 'node:path'
import { type Catalog, openCatalog } from '../catalog/catalog.js'
import type { Config } from '../config/config.js'
import { createFiles, type Files } from '../files/files.js'
import { findBundledIn } from '../loras/bundled.js'
import { createLoraCache, type LoraCache } from '../loras/loraCache.js'
import { createMediaClient, type MediaClient } from '../net/fetchMedia.js'
import { createGuardedClient, type GuardedClient } from '../net/guardedClient.js'
import { allowHosts } from '../net/publicAddress.js'
import { toWebhookKey } from '../store/secretStore.js'
import { takeLock } from '../store/sqlite/dataDirLock.js'
import { openSqliteStore } from '../store/sqlite/open.js'
import type { Store } from '../store/store.js'
import { createKeys, type Keys } from './auth/apiKeys.js'

export type Services = {
  readonly store: Store
  readonly files: Files
  readonly catalog: Catalog
  /** The API keys that are let in. */
  readonly keys: Keys
  readonly library: LoraCache
  /** Fetches what inputs name. */
  readonly media: MediaClient
  /** For URLs that clients name: webhooks and uploads. */
  readonly client: GuardedClient
  /** `whsec_…`, with which webhooks are signed. */
  readonly webhookKey: string
  /** Signs the URLs under which uploads can be downloaded. */
  readonly downloadSecret: Uint8Array
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
  | 'proxy'
>

/**
 * Opens everything in `config.dataDir`; throws when another server has it or the store is damaged.
 */
export async function openServices(config: ServiceSettings): Promise<Services> {
  const unlock = takeLock(join(config.dataDir, 'fluxd.lock'))
  try {
    const catalog = await openCatalog({ folders: config.catalog, checkpoints: config.checkpoints })
    const services = await createServices(config, catalog)
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

/**
 * The services without the lock of the data folder, for callers that have it or share no folder.
 */
export async function createServices(config: ServiceSettings, catalog: Catalog): Promise<Services> {
  const allowAddress = allowHosts(config.allowedHosts)
  const store = openSqliteStore(join(config.dataDir, 'fluxd.sqlite'))
  const files = await createFiles({
    folder: join(config.dataDir, 'files'),
    store: store.files,
    quota: config.filesBytes,
  })
  const library = createLoraCache(config, { findBundled: findBundledIn(config.loras.builtin) })
  const media = createMediaClient({ allowAddress, proxy: config.proxy })
  const client = createGuardedClient({ allowAddress, proxy: config.proxy })
  return {
    store,
    files,
    catalog,
    keys: createKeys(store.apiKeys, config.apiKey?.reveal()),
    library,
    media,
    client,
    webhookKey: toWebhookKey(await store.secrets.read('webhooks')),
    downloadSecret: await store.secrets.read('downloads'),
    async close() {
      await Promise.all([library.close(), media.close(), client.close()])
      store.close()
    },
  }
}
