/** Secrets that the server makes for itself once and keeps. */
import { randomBytes } from 'node:crypto'
import type { Database } from './database.js'

export type SecretStore = {
  /** The bytes of the secret `name`, drawn when it is asked for the first time. */
  readonly read: (name: SecretName) => Buffer
}

/** What signs webhooks, and what signs the URLs of uploaded files. */
export type SecretName = 'webhooks' | 'downloads'

export const secretTable = `
  CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
  ) STRICT`

// Of webhook secrets as Replicate makes them.
const secretBytes = 24

export function createSecretStore({ sqlite }: Database): SecretStore {
  const insert = sqlite.prepare<[string, Buffer]>('INSERT OR IGNORE INTO secrets VALUES (?, ?)')
  const select = sqlite
    .prepare<[string], Buffer>('SELECT bytes FROM secrets WHERE name = ?')
    .pluck()
  return {
    read(name) {
      const known = select.get(name)
      if (known) return known
      insert.run(name, randomBytes(secretBytes))
      return select.get(name)!
    },
  }
}

/** The text in which clients get the secret of webhooks: `whsec_` and standard base64. */
export const toWebhookKey = (secret: Buffer) => `whsec_${secret.toString('base64')}`
