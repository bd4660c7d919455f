/** What the routes of `/v1` stand on. */
import type { Catalog } from '../../../catalog/catalog.js'
import type { Files } from '../../../files/files.js'
import type { DeploymentStore } from '../../../store/deploymentStore.js'
import type { RunCounts } from '../../../store/store.js'
import type { Predictions } from '../../predictions/service.js'
import type { Webhooks } from '../../predictions/webhooks.js'
import type { PublicUrl } from '../publicUrl.js'
import type { OutputForm } from './preferHeader.js'

export type ReplicateServices = {
  readonly predictions: Predictions
  readonly webhooks: Pick<Webhooks, 'listDeliveries' | 'redeliver'>
  readonly catalog: Catalog
  readonly files: Files
  readonly deployments: DeploymentStore
  readonly runs: RunCounts
  readonly publicUrl: PublicUrl
  /** `auto` is what present.ts chooses for the client of each request. */
  readonly outputMode: OutputForm | 'auto'
  /** `whsec_…`, with which webhooks are signed. */
  readonly webhookKey: string
  /** Signs the URLs under which uploads can be downloaded. */
  readonly downloadSecret: Uint8Array
  /** Holds uploads until their form is read; a server that starts empties it. */
  readonly scratchFolder: string
}

/** The name under which everything of this server is kept. */
export const owner = 'fluxd'
