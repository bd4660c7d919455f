/** The port of API keys. */
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

export type ApiKeyStore = {
  readonly insert: (key: KeyRow) => Promise<void>
  readonly find: (id: string) => Promise<KeyRow | undefined>
  /** Oldest first. */
  readonly list: () => Promise<readonly KeyRow[]>
  readonly count: () => Promise<number>
  /** Whether there was a key of this name. */
  readonly remove: (name: string) => Promise<boolean>
}
