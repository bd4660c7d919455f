import { join } from 'node:path'
import { openSqliteStore } from '../../src/store/sqlite/open.js'
import { temporaryData } from '../temporaryData.js'
import { describeStoreContract } from './contract.js'
import { describeQueueProperties } from './queueProperties.js'

function open() {
  const path = join(temporaryData(), 'fluxd.sqlite')
  const stores = [openSqliteStore(path)]
  return {
    store: stores[0]!,
    reopen() {
      stores.at(-1)!.close()
      const store = openSqliteStore(path)
      stores.push(store)
      return store
    },
    close: () => stores.at(-1)!.close(),
  }
}

describeStoreContract('SQLite', open)
describeQueueProperties('SQLite', open)
