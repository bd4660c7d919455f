import { join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { FluxInput } from '../../src/contract/input.js'
import type { Prediction } from '../../src/contract/prediction.js'
import { createPrediction, start, succeed } from '../../src/predictions/prediction.js'
import { type Database, openDatabase } from '../../src/store/sqlite/database.js'
import {
  createPredictionStore,
  type ListQuery,
  type PredictionStore,
} from '../../src/store/sqlite/predictions.js'
import { temporaryData } from '../temporaryData.js'

let database: Database
let store: PredictionStore

beforeEach(() => {
  database = openDatabase(join(temporaryData(), 'fluxd.sqlite'))
  store = createPredictionStore(database)
  onTestFinished(() => database.close())
})

const describePrediction = (id: string, input: Prediction['input'] = { prompt: 'p' }) =>
  createPrediction({
    id,
    surface: 'replicate',
    model: 'fluxd/flux',
    version: '0'.repeat(64),
    deployment: 'mine',
    keyId: 'key',
    input,
    createdAt: new Date('2026-01-01T00:00:00.123Z'),
    deadline: new Date('2026-01-01T01:00:00Z'),
    sentCreatedAt: 'yesterday',
    webhook: { url: 'http://a.example', events: ['completed'] },
    streamToken: `token-${id}`,
  })

const wishOf = (input: Prediction['input']) => ({
  input: FluxInput.parse({ seed: 5, ...input }),
  loras: { main: [{ source: 'a/b', scale: 0.5 }], extra: [] },
})

const insert = (id: string, input: Prediction['input'] = { prompt: 'p' }) =>
  store.insert({ prediction: describePrediction(id, input), wish: wishOf(input), priority: 3 })

test('a prediction comes back as it went in, at each of its states', () => {
  const created = describePrediction('a')
  insert('a')
  expect(store.find('a')).toEqual(created)
  const file = { index: 0, name: 'out-0.webp', mimeType: 'image/webp', size: 1, fileId: 'f' }
  const done = succeed({ ...start(created, 'line\n'), output: [file] })
  store.save(done)
  expect(store.find('a')).toEqual(done)
  expect(store.findByStreamToken('token-a')).toEqual(done)
  expect(store.find('b')).toBeUndefined()
})

test('the wish comes back with its seed and its LoRAs', () => {
  insert('a', { prompt: 'p', num_outputs: 2, unknown: true })
  expect(store.readWish('a')).toEqual(wishOf({ prompt: 'p', num_outputs: 2 }))
})

describe('an input that is long', () => {
  const image = `data:image/png;base64,${'A'.repeat(13_000_000)}`

  test('is whole where it is asked for, and cut short where many are listed', () => {
    const input = { prompt: 'p', image }
    const { prediction } = insert('a', input)
    expect(prediction.input).toEqual({ prompt: 'p', image: expect.stringMatching(/^data:.*…$/) })
    expect(store.find('a')!.input).toEqual(input)
    expect(store.readWish('a').input.image).toBe(image)
    expect(JSON.stringify(store.list({ limit: 10 })).length).toBeLessThan(2000)
  })

  test('is stored once', () => {
    insert('a', { prompt: 'p', image })
    const bytes = database.sqlite
      .prepare('SELECT sum(length(sent_json)) + sum(length(wish_json)) FROM inputs')
      .pluck()
      .get()
    expect(bytes).toBeLessThan(13_010_000)
  })
})

test('clearing removes input, output and logs, and the record stays', () => {
  insert('a')
  const done = succeed({ ...start(describePrediction('a'), 'line\n'), output: [] })
  store.save(done)
  expect(store.listToClear(new Date(done.completedAt!.getTime()), 10)).toEqual([])
  expect(store.listToClear(new Date(done.completedAt!.getTime() + 1), 10)).toEqual(['a'])
  store.clear('a')
  expect(store.find('a')).toEqual({
    ...done,
    input: {},
    logs: '',
    output: undefined,
    dataRemoved: true,
  })
  expect(store.listToClear(new Date(Date.now() + 1e9), 10)).toEqual([])
})

test('what is unfinished is listed in the order of admission, with how many servers began with it', () => {
  for (const id of ['a', 'b', 'c']) insert(id)
  store.save(start(describePrediction('b'), ''))
  store.save(succeed(describePrediction('c')))
  expect(store.listUnfinished().map(({ prediction }) => prediction.id)).toEqual(['a', 'b'])
  expect([1, 2].map(() => store.countServerStart('b'))).toEqual([1, 2])
})

// How fast, and that their number does not matter, is measured by `npm run bench:http`.
test('a list is in the order of time, whatever the clock did, and its bounds are of both kinds', () => {
  const times = [3, 1, 2, 2, 5]
  times.forEach((second, index) => {
    const prediction = { ...describePrediction(`p${index}`), createdAt: new Date(second * 1000) }
    store.insert({ prediction, wish: wishOf({ prompt: 'p' }), priority: 0 })
  })
  const list = (query: Omit<ListQuery, 'limit'>) =>
    store.list({ limit: 10, ...query }).map(({ prediction }) => prediction.id)
  expect(list({})).toEqual(['p4', 'p0', 'p3', 'p2', 'p1'])
  const [before, after] = [4, 2]
  expect(list({ before })).toEqual(['p2', 'p1'])
  expect(list({ after })).toEqual(['p4', 'p0', 'p3', 'p2'])
  expect(list({ createdAfter: new Date(2000) })).toEqual(['p4', 'p0', 'p3', 'p2'])
  expect(list({ createdBefore: new Date(2000) })).toEqual(['p1'])
  expect(list({ before, createdAfter: new Date(2000) })).toEqual(['p2'])
  expect(list({ after, createdBefore: new Date(5000) })).toEqual(['p0', 'p3', 'p2'])
  expect(list({ before: 1000 })).toHaveLength(5)
  expect(list({ after: 1000 })).toEqual([])
})

test('a page among 100,000 predictions is whole, at any place', () => {
  insert('first')
  store.save(succeed(describePrediction('first')))
  const { sqlite } = database
  const columns = (sqlite.pragma('table_info(predictions)') as { name: string }[])
    .map(({ name }) => name)
    .filter((name) => name !== 'sequence')
  const copied = columns.map((name) =>
    ['id', 'stream_token'].includes(name) ? `${name} || '-' || number` : name,
  )
  sqlite.exec(`
    WITH RECURSIVE numbers (number) AS
      (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 99999)
    INSERT INTO predictions (${columns.join()})
      SELECT ${copied.join()} FROM numbers, predictions WHERE id = 'first'`)
  for (const before of [100_001, 50_000, 120]) {
    const sequences = store.list({ limit: 101, before }).map(({ sequence }) => sequence)
    expect(sequences).toEqual(Array.from({ length: 101 }, (_, i) => before - 1 - i))
  }
  const after = store.list({ limit: 3, after: 50_000 }).map(({ sequence }) => sequence)
  expect(after).toEqual([50_003, 50_002, 50_001])
  expect(store.listUnfinished()).toEqual([])
})
