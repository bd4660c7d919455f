/** The table of API keys. */
import type { Database } from './database.js'

export const scopes = ['predict', 'admin', 'metrics'] as const
/** `predict` makes and reads predictions, `admin` may do everything, `metrics` reads /metrics. */
export type Scope = (typeof scopes)[number]

export type KeyRow = {
  readonly id: string
  readonly name: string
  /** SHA-256 of the key's text. */
  readonly hash: Buffer
  readonly scopes: readonly Scope[]
  /** Higher goes first. */
  readonly priority: number
  /** New predictions a minute; 0 is without limit. */
  readonly ratePerMinute: number
  readonly createdAt: Date
}

export type KeyStore = {
  readonly insert: (key: KeyRow) => void
  readonly find: (id: string) => KeyRow | undefined
  /** Oldest first. */
  readonly list: () => readonly KeyRow[]
  readonly count: () => number
  /** Whether there was a key of this name. */
  readonly remove: (name: string) => boolean
}

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

export function createKeyStore({ sqlite }: Database): KeyStore {
  const insert = sqlite.prepare(
    `INSERT INTO keys (id, name, hash, scopes, priority, rate_per_minute, created_at)
     VALUES (?, ?, ?, ?, ?, ?, ?)`,
  )
  const find = sqlite.prepare<[string], Stored>('SELECT * FROM keys WHERE id = ?')
  const list = sqlite.prepare<[], Stored>('SELECT * FROM keys ORDER BY created_at, id')
  const count = sqlite.prepare<[], number>('SELECT count(*) FROM keys').pluck()
  const remove = sqlite.prepare<[string]>('DELETE FROM keys WHERE name = ?')
  return {
    insert: (key) =>
      void insert.run(
        key.id,
        key.name,
        key.hash,
        key.scopes.join(' '),
        key.priority,
        key.ratePerMinute,
        key.createdAt.getTime(),
      ),
    find(id) {
      const row = find.get(id)
      return row && toKey(row)
    },
    list: () => list.all().map(toKey),
    count: () => count.get() ?? 0,
    remove: (name) => remove.run(name).changes > 0,
  }
}

const toKey = ({ scopes, rate_per_minute, created_at, ...row }: Stored): KeyRow => ({
  ...row,
  scopes: scopes.split(' ') as Scope[],
  ratePerMinute: rate_per_minute,
  createdAt: new Date(created_at),
})
