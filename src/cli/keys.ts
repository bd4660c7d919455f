/** `fluxd keys`: issues, lists and revokes the API keys of this server. */
import { join } from 'node:path'
import type { Config } from '../config/config.js'
import { invalidInput } from '../errors.js'
import { createKeys } from '../server/auth/apiKeys.js'
import { type KeyRow, type Scope, scopes } from '../store/apiKeyStore.js'
import { openSqliteStore } from '../store/sqlite/open.js'
import { toTable } from './table.js'

export type NewKeyFlags = {
  readonly scope: readonly string[]
  /** As commander gives them: still text. */
  readonly priority: string
  readonly rate: string
}

type KeysContext = {
  readonly config: Pick<Config, 'dataDir'>
  readonly stdout: NodeJS.WritableStream
}

/** Issues a key and prints it, once. Throws `invalid_input` for wrong flags. */
export async function addKey(
  name: string,
  flags: NewKeyFlags,
  { config, stdout }: KeysContext,
): Promise<void> {
  const key = {
    name,
    scopes: flags.scope.flatMap((text) => text.split(',')).map(readScope),
    priority: readInteger('--priority', flags.priority, -100, 100),
    ratePerMinute: readInteger('--rate', flags.rate, 0, 1_000_000),
  }
  await withKeys(config, async (keys) => {
    stdout.write(`${await keys.issue(key)}\n`)
  })
}

/** Prints a line for each key, without the key itself: only its hash is stored. */
export async function listKeys(
  { json = false }: { readonly json?: boolean },
  { config, stdout }: KeysContext,
): Promise<void> {
  await withKeys(config, async (keys) => {
    const all = await keys.list()
    stdout.write(json ? `${JSON.stringify(all.map(toRecord), null, 2)}\n` : describeAll(all))
  })
}

const toRecord = ({ hash: _, ...key }: KeyRow) => key

const describeAll = (keys: readonly KeyRow[]) =>
  keys.length === 0
    ? noKeys
    : toTable([
        ['NAME', 'ID', 'SCOPES', 'PRIORITY', 'RATE', 'CREATED'],
        ...keys.map(({ id, name, scopes, priority, ratePerMinute, createdAt }) => [
          name,
          id,
          scopes.join(','),
          String(priority),
          describeRate(ratePerMinute),
          createdAt.toISOString(),
        ]),
      ])

const describeRate = (perMinute: number) => (perMinute === 0 ? 'no limit' : `${perMinute}/min`)

/** Revokes a key; a running server refuses it from its next request on. */
export async function removeKey(name: string, { config, stdout }: KeysContext): Promise<void> {
  await withKeys(config, (keys) => keys.revoke(name))
  stdout.write(`removed ${name}\n`)
}

const noKeys = 'There are no keys yet; `fluxd keys add NAME` makes one\n'

async function withKeys(
  { dataDir }: Pick<Config, 'dataDir'>,
  work: (keys: ReturnType<typeof createKeys>) => Promise<void>,
): Promise<void> {
  const store = openSqliteStore(join(dataDir, 'fluxd.sqlite'))
  try {
    await work(createKeys(store.apiKeys, undefined))
  } finally {
    store.close()
  }
}

function readScope(text: string): Scope {
  const scope = scopes.find((each) => each === text)
  if (scope) return scope
  throw invalidInput(`Expected --scope to be one of ${scopes.join(', ')} but received ${text}`)
}

function readInteger(flag: string, text: string, minimum: number, maximum: number): number {
  const value = Number(text)
  if (/^-?\d+$/.test(text) && value >= minimum && value <= maximum) return value
  throw invalidInput(
    `Expected ${flag} to be an integer from ${minimum} to ${maximum} but received ${text}`,
  )
}
