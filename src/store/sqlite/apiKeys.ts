/** API keys in SQLite. */
import type { ApiKeyStore, KeyRow, Scope } from '../apiKeyStore.js'
import type { Database } from './database.js'

export const keyTable = `
  CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL,
    scopes TEXT NOT NULL,
    priority INTEGER NOT NULL,
    rate_per_minute INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT`

type Stored = {
  readonly id: string
  readonly name: string
  readonly hash: Buffer
  readonly scopes: string
  readonly priority: number
  readonly rate_per_minute: number
  readonly created_at: number
}

export function createApiKeyStore({ sqlite, write }: Database): ApiKeyStore {
  const insert = sqlite.prepare<Stored>(
    `INSERT INTO keys (id, name, hash, scopes, priority, rate_per_minute, created_at)
     VALUES (@id, @name, @hash, @scopes, @priority, @rate_per_minute, @created_at)`,
  )
  const find = sqlite.prepare<[string], Stored>('SELECT * FROM keys WHERE id = ?')
  const list = sqlite.prepare<[], Stored>('SELECT * FROM keys ORDER BY created_at, id')
  const count = sqlite.prepare<[], number>('SELECT count(*) FROM keys').pluck()
  const remove = sqlite.prepare<[string]>('DELETE FROM keys WHERE name = ?')
  return {
    async insert(key) {
      await write(() => insert.run(toColumns(key)))
    },
    async find(id) {
      const row = find.get(id)
      return row && toKey(row)
    },
    list: async () => list.all().map(toKey),
    count: async () => count.get() ?? 0,
    remove: (name) => write(() => remove.run(name).changes > 0),
  }
}

const toColumns = ({ scopes, ratePerMinute, createdAt, ...row }: KeyRow): Stored => ({
  ...row,
  scopes: scopes.join(' '),
  rate_per_minute: ratePerMinute,
  created_at: createdAt.getTime(),
})

const toKey = ({ scopes, rate_per_minute, created_at, ...row }: Stored): KeyRow => ({
  ...row,
  scopes: scopes.split(' ') as Scope[],
  ratePerMinute: rate_per_minute,
  createdAt: new Date(created_at),
})
