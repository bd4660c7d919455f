/** What the rows of the SQLite store are like beside the contract of all stores: their size, lists, clearing. */
import { join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { log, start, succeed } from '../../src/predictions/prediction.js'
import type { ListQuery } from '../../src/store/predictionStore.js'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { openSqliteStore } from '../../src/store/sqlite/open.js'
import type { Store } from '../../src/store/store.js'
import { temporaryData } from '../temporaryData.js'
import { admissionOf } from './admissions.js'

let path: string
let opened: Store
let store: Store['predictions']

beforeEach(() => {
  path = join(temporaryData(), 'fluxd.sqlite')
  opened = openSqliteStore(path)
  store = opened.predictions
  onTestFinished(() => opened.close())
})

const admit = (id: string, prediction: Parameters<typeof admissionOf>[1] = {}) =>
  store.admit(admissionOf(id, prediction))

/** Admits a prediction and ends it. */
async function finish(id: string) {
  await admit(id)
  const held = (await store.claim({ executor: 'a', patienceMs: 0 }))!
  const done = succeed(log(start(held.prediction, ''), 'line'))
  await store.settle(held.claim, done)
  return done
}

describe('an input that is long', () => {
  const image = `data:image/png;base64,${'A'.repeat(13_000_000)}`
  const input = { prompt: 'p', image }

  test('is whole where it is asked for, and cut short where many are listed', async () => {
    await admit('a', { prediction: { input } })
    expect((await store.find('a'))!.input).toEqual(input)
    const listed = await store.list({ limit: 10 })
    expect(JSON.stringify(listed).length).toBeLessThan(2000)
    expect(listed[0]!.prediction.input).toEqual({
      prompt: 'p',
      image: expect.stringMatching(/^data:.*…$/),
    })
    const claimed = (await store.claim({ executor: 'a', patienceMs: 0 }))!
    expect(claimed.work.input.image).toBe(image)
  })

  test('is stored once', async () => {
    await admit('a', { prediction: { input } })
    opened.close()
    const database = openDatabase(path)
    const bytes = database.sqlite
      .prepare('SELECT sum(length(sent_json)) + sum(length(wish_json)) FROM inputs')
      .pluck()
      .get()
    database.close()
    expect(bytes).toBeLessThan(13_010_000)
  })
})

test('clearing removes input, output and logs, and the record stays', async () => {
  const done = await finish('a')
  const endedMs = done.completedAt!.getTime()
  expect(await store.listToClear(new Date(endedMs), 10)).toEqual([])
  expect(await store.listToClear(new Date(endedMs + 1), 10)).toEqual(['a'])
  await store.clear(['a'])
  expect(await store.find('a')).toEqual({
    ...done,
    input: {},
    logs: '',
    output: undefined,
    dataRemoved: true,
  })
  expect(await store.listToClear(new Date(Date.now() + 1e9), 10)).toEqual([])
})

// How fast, and that their number does not matter, is measured by `npm run bench:http`.
test('a list is in the order of time, whatever the clock did, and its bounds are of both kinds', async () => {
  for (const [index, second] of [3, 1, 2, 2, 5].entries())
    await admit(`p${index}`, { prediction: { createdAt: new Date(second * 1000) } })
  const list = async (query: Omit<ListQuery, 'limit'>) =>
    (await store.list({ limit: 10, ...query })).map(({ prediction }) => prediction.id)
  expect(await list({})).toEqual(['p4', 'p0', 'p3', 'p2', 'p1'])
  const [before, after] = [4, 2]
  expect(await list({ before })).toEqual(['p2', 'p1'])
  expect(await list({ after })).toEqual(['p4', 'p0', 'p3', 'p2'])
  expect(await list({ createdAfter: new Date(2000) })).toEqual(['p4', 'p0', 'p3', 'p2'])
  expect(await list({ createdBefore: new Date(2000) })).toEqual(['p1'])
  expect(await list({ before, createdAfter: new Date(2000) })).toEqual(['p2'])
  expect(await list({ after, createdBefore: new Date(5000) })).toEqual(['p0', 'p3', 'p2'])
  expect(await list({ before: 1000 })).toHaveLength(5)
  expect(await list({ after: 1000 })).toEqual([])
})

test('a page among 100,000 predictions is whole, at any place', async () => {
  await finish('first')
  opened.close()
  copyFirst(100_000)
  opened = openSqliteStore(path)
  store = opened.predictions
  const list = async (query: ListQuery) => (await store.list(query)).map(({ sequence }) => sequence)
  for (const before of [100_001, 50_000, 120])
    expect(await list({ limit: 101, before })).toEqual(
      Array.from({ length: 101 }, (_, i) => before - 1 - i),
    )
  expect(await list({ limit: 3, after: 50_000 })).toEqual([50_003, 50_002, 50_001])
  expect(await store.counts()).toEqual({ waiting: 0, running: 0 })
})

/** Fills the table with copies of its row, up to `count`. */
function copyFirst(count: number): void {
  const { sqlite, close } = openDatabase(path)
  const columns = (sqlite.pragma('table_info(predictions)') as { name: string }[])
    .map(({ name }) => name)
    .filter((name) => name !== 'sequence')
  const copied = columns.map((name) =>
    ['id', 'stream_token'].includes(name) ? `${name} || '-' || number` : name,
  )
  sqlite.exec(`
    WITH RECURSIVE numbers (number) AS
      (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ${count - 1})
    INSERT INTO predictions (${columns.join()})
      SELECT ${copied.join()} FROM numbers, predictions WHERE id = 'first'`)
  close()
}
