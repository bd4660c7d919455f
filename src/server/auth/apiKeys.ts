/**
 * API keys: `fluxd_<id>_<secret>`. The server keeps a hash of the secret only; a secret of 256
 * random bits needs no slow hash. Which key it is follows from the id, so that the secret is
 * compared in constant time with one hash.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { FluxdError, invalidInput } from '../../errors.js'
import type { ApiKeyStore, KeyRow, Scope } from '../../store/apiKeyStore.js'

/** The key that a request was sent with. */
export type Caller = {
  readonly keyId: string
  readonly scopes: readonly Scope[]
  /** Higher goes first. */
  readonly priority: number
  /** New predictions a minute; 0 is without limit. */
  readonly ratePerMinute: number
}

export type NewKey = Omit<Caller, 'keyId'> & { readonly name: string }

export type Keys = {
  /** Whether any key exists: without one every program of this machine may do everything. */
  readonly areConfigured: () => Promise<boolean>
  /** Issues a key and resolves to its text, which is not kept. Throws when the name is taken. */
  readonly issue: (key: NewKey) => Promise<string>
  readonly list: () => Promise<readonly KeyRow[]>
  /** Ends a key at once; throws `not_found` when no key has the name. */
  readonly revoke: (name: string) => Promise<void>
  /** The key that an Authorization header carries; undefined for an unknown one. */
  readonly authenticate: (authorization: string | undefined) => Promise<Caller | undefined>
}

// Without a limit of its own, as it is the operator's.
const ownerOfMasterKey: Caller = {
  keyId: 'master',
  scopes: ['admin'],
  priority: 0,
  ratePerMinute: 0,
}

/** The keys in the store and, where the settings name one, the operator's own with all rights. */
export function createKeys(store: ApiKeyStore, masterKey: string | undefined): Keys {
  const masterHash = masterKey === undefined ? undefined : hash(masterKey)

  async function authenticate(authorization: string | undefined): Promise<Caller | undefined> {
    const token = readToken(authorization)
    if (token === undefined) return undefined
    const received = hash(token)
    if (masterHash && timingSafeEqual(received, masterHash)) return ownerOfMasterKey
    const [, id] = /^fluxd_([0-9a-f]{12})_/.exec(token) ?? []
    const row = id === undefined ? undefined : await store.find(id)
    return row && timingSafeEqual(received, row.hash) ? toCaller(row) : undefined
  }

  return {
    areConfigured: async () => masterHash !== undefined || (await store.count()) > 0,
    async issue({ name, ...rights }) {
      if (!/^[\w.-]{1,64}$/.test(name))
        throw invalidInput(
          "Expected a key's name of 1 to 64 letters, digits, dots, dashes or underscores " +
            `but received ${JSON.stringify(name)}`,
        )
      if ((await store.list()).some((row) => row.name === name))
        throw invalidInput(`Expected a new name for the key but ${name} exists already`)
      const id = randomBytes(6).toString('hex')
      const key = `fluxd_${id}_${randomBytes(32).toString('base64url')}`
      await store.insert({ id, name, hash: hash(key), createdAt: new Date(), ...rights })
      return key
    },
    list: store.list,
    async revoke(name) {
      if (!(await store.remove(name)))
        throw new FluxdError('not_found', `There is no key named ${name}`)
    },
    authenticate,
  }
}

/** Clients of Replicate send `Bearer`, old ones `Token`. */
const readToken = (authorization = '') => /^(?:Bearer|Token) +(\S+)$/i.exec(authorization)?.[1]

const hash = (text: string) => createHash('sha256').update(text).digest()

const toCaller = ({ id, scopes, priority, ratePerMinute }: KeyRow): Caller => ({
  keyId: id,
  scopes,
  priority,
  ratePerMinute,
})
