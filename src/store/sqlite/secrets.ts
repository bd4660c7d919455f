/** Secrets in SQLite. */
import { randomBytes } from 'node:crypto'
import type { SecretStore } from '../secretStore.js'
import type { Database } from './database.js'

export const secretTable = `
  CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
  ) STRICT`

// Of webhook secrets as Replicate makes them.
const secretBytes = 24

export function createSecretStore({ sqlite, write }: Database): SecretStore {
  const insert = sqlite.prepare<[string, Buffer]>('INSERT OR IGNORE INTO secrets VALUES (?, ?)')
  const select = sqlite
    .prepare<[string], Buffer>('SELECT bytes FROM secrets WHERE name = ?')
    .pluck()
  return {
    async read(name) {
      const known = select.get(name)
      if (known) return known
      await write(() => insert.run(name, randomBytes(secretBytes)))
      return select.get(name)!
    },
  }
}
