import { expect, test } from 'vitest'
import { createKeys, type NewKey } from '../../../src/server/auth/apiKeys.js'
import { createKeyStore } from '../../../src/store/sqlite/apiKeys.js'
import { openDatabase } from '../../../src/store/sqlite/database.js'

const rights = { scopes: ['predict'], priority: 3, ratePerMinute: 60 } as const
const key = (name: string): NewKey => ({ name, ...rights })

function openKeys(masterKey?: string) {
  const db = openDatabase(':memory:')
  return { db, keys: createKeys(createKeyStore(db), masterKey) }
}

test('a key opens what it was issued for, as Bearer and as Token', () => {
  const { keys } = openKeys()
  const text = keys.issue(key('worker'))
  const caller = { keyId: keys.list()[0]!.id, ...rights }
  expect(keys.authenticate(`Bearer ${text}`)).toEqual(caller)
  expect(keys.authenticate(`token ${text}`)).toEqual(caller)
})

test('a key is not to be found in the database', () => {
  const { keys, db } = openKeys()
  const secret = keys.issue(key('worker')).split('_').slice(2).join('_')
  expect(secret.length).toBeGreaterThan(40)
  expect(db.sqlite.serialize().includes(secret)).toBe(false)
})

test('a revoked key opens nothing from then on', () => {
  const { keys } = openKeys()
  const text = keys.issue(key('worker'))
  keys.revoke('worker')
  expect(keys.authenticate(`Bearer ${text}`)).toBeUndefined()
  expect(() => keys.revoke('worker')).toThrow('There is no key named worker')
})

test('nobody is let in by anything else', () => {
  const { keys } = openKeys('operator')
  const text = keys.issue(key('worker'))
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
    expect(keys.authenticate(header)).toBeUndefined()
})

test('the key of the settings may do everything, without a limit', () => {
  const { keys } = openKeys('operator')
  expect(keys.areConfigured()).toBe(true)
  expect(keys.authenticate('Bearer operator')).toMatchObject({
    scopes: ['admin'],
    ratePerMinute: 0,
  })
})

test('keys are configured as soon as there is one', () => {
  const { keys } = openKeys()
  expect(keys.areConfigured()).toBe(false)
  keys.issue(key('worker'))
  expect(keys.areConfigured()).toBe(true)
})

test.each(['', 'a b', 'x'.repeat(65), 'a/b'])('a key cannot be named %j', (name) => {
  expect(() => openKeys().keys.issue(key(name))).toThrow("Expected a key's name")
})

test('two keys cannot have one name', () => {
  const { keys } = openKeys()
  keys.issue(key('worker'))
  expect(() => keys.issue(key('worker'))).toThrow('worker exists already')
})
