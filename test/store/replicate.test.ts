/** What `/v1` keeps besides predictions and files: deployments, secrets, how often models ran. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { createDeploymentStore, type StoredDeployment } from '../../src/store/sqlite/deployments.js'
import { createRunCounts } from '../../src/store/sqlite/runCounts.js'
import { createSecretStore, toWebhookKey } from '../../src/store/sqlite/secrets.js'
import { temporaryFolder } from '../weightFiles.js'

/** Opens the same file each time. */
function makeStore() {
  const folder = temporaryFolder()
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return () => openDatabase(join(folder, 'fluxd.sqlite'))
}

const release: StoredDeployment = {
  name: 'mine',
  number: 1,
  model: 'fluxd/flux',
  version: 'a'.repeat(64),
  hardware: 'local',
  minInstances: 0,
  maxInstances: 2,
  createdAt: new Date('2026-01-02T03:04:05.678Z'),
}

test('a deployment is there again after a restart, as it was', () => {
  const open = makeStore()
  const first = open()
  const store = createDeploymentStore(first)
  expect(store.insert(release)).toBe(true)
  expect(store.insert({ ...release, hardware: 'other' })).toBe(false)
  store.update({ ...release, number: 2 })
  first.close()
  const second = open()
  const again = createDeploymentStore(second)
  expect(again.list()).toEqual([{ ...release, number: 2 }])
  expect([again.remove('mine'), again.remove('mine')]).toEqual([true, false])
  expect(again.find('mine')).toBeUndefined()
  second.close()
})

test('a secret is drawn once and kept, and each is another one', () => {
  const open = makeStore()
  const first = open()
  const webhooks = createSecretStore(first).read('webhooks')
  expect(webhooks).toHaveLength(24)
  expect(createSecretStore(first).read('downloads')).not.toEqual(webhooks)
  first.close()
  const second = open()
  expect(createSecretStore(second).read('webhooks')).toEqual(webhooks)
  second.close()
  expect(toWebhookKey(webhooks)).toBe(`whsec_${webhooks.toString('base64')}`)
})

test('a store without predictions has no runs', () => {
  const database = makeStore()()
  expect(createRunCounts(database).count()).toEqual(new Map())
  database.close()
})
