import { expect, test } from 'vitest'
import { createKeys, type NewKey } from '../../../src/server/auth/apiKeys.js'
import { createApiKeyStore } from '../../../src/store/sqlite/apiKeys.js'
import { openDatabase } from '../../../src/store/sqlite/database.js'

const rights = { scopes: ['predict'], priority: 3, ratePerMinute: 60 } as const
const key = (name: string): NewKey => ({ name, ...rights })

function openKeys(masterKey?: string) {
  const db = openDatabase(':memory:')
  return { db, keys: createKeys(createApiKeyStore(db), masterKey) }
}

test('a key opens what it was issued for, as Bearer and as Token', async () => {
  const { keys } = openKeys()
  const text = await keys.issue(key('worker'))
  const caller = { keyId: (await keys.list())[0]!.id, ...rights }
  expect(await keys.authenticate(`Bearer ${text}`)).toEqual(caller)
  expect(await keys.authenticate(`token ${text}`)).toEqual(caller)
})

test('a key is not to be found in the database', async () => {
  const { keys, db } = openKeys()
  const secret = (await keys.issue(key('worker'))).split('_').slice(2).join('_')
  expect(secret.length).toBeGreaterThan(40)
  expect(db.sqlite.serialize().includes(secret)).toBe(false)
})

test('a revoked key opens nothing from then on', async () => {
  const { keys } = openKeys()
  const text = await keys.issue(key('worker'))
  await keys.revoke('worker')
  expect(await keys.authenticate(`Bearer ${text}`)).toBeUndefined()
  await expect(keys.revoke('worker')).rejects.toThrow('There is no key named worker')
})

test('nobody is let in by anything else', async () => {
  const { keys } = openKeys('operator')
  const text = await keys.issue(key('worker'))
  const wrong = `${text.slice(0, -1)}${text.endsWith('A') ? 'B' : 'A'}`
  for (const header of [
    undefined,
    '',
    text,
    `Basic ${text}`,
    'Bearer ',
    `Bearer ${wrong}`,
    'Bearer x',
  ])
    expect(await keys.authenticate(header)).toBeUndefined()
})

test('the key of the settings may do everything, without a limit', async () => {
  const { keys } = openKeys('operator')
  expect(await keys.areConfigured()).toBe(true)
  expect(await keys.authenticate('Bearer operator')).toMatchObject({
    scopes: ['admin'],
    ratePerMinute: 0,
  })
})

test('keys are configured as soon as there is one', async () => {
  const { keys } = openKeys()
  expect(await keys.areConfigured()).toBe(false)
  await keys.issue(key('worker'))
  expect(await keys.areConfigured()).toBe(true)
})

test.each(['', 'a b', 'x'.repeat(65), 'a/b'])('a key cannot be named %j', async (name) => {
  await expect(openKeys().keys.issue(key(name))).rejects.toThrow("Expected a key's name")
})

test('two keys cannot have one name', async () => {
  const { keys } = openKeys()
  await keys.issue(key('worker'))
  await expect(keys.issue(key('worker'))).rejects.toThrow('worker exists already')
})
