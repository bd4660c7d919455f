import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { createRunCounts } from '../../src/store/sqlite/runCounts.js'
import { temporaryData } from '../temporaryData.js'

/** What later versions added to the table. */
const newColumns = [
  'owner',
  'turn',
  'lora_set',
  'cost_kind',
  'cost_tokens',
  'cost_step_tokens',
  'executor',
  'claim',
  'is_running',
  'overtaken_at',
  'traceparent',
]

const insert = (sqlite: Sqlite.Database, id: string, model: string) =>
  sqlite
    .prepare(
      `INSERT INTO predictions (id, surface, model, version, priority, status, created_at,
         excerpt_json, stream_token) VALUES (?, 'cog', ?, 'v', 0, 'starting', 0, '{}', ?)`,
    )
    .run(id, model, id)

test('a run is counted with its admission, and not when that is rolled back', async () => {
  const database = openDatabase(join(temporaryData(), 'fluxd.sqlite'))
  onTestFinished(() => database.close())
  const runs = createRunCounts(database)
  for (const id of ['1', '2']) insert(database.sqlite, id, 'a/a')
  insert(database.sqlite, '3', 'b/b')
  const failing = () =>
    database.write(() => {
      insert(database.sqlite, '4', 'b/b')
      throw new Error('no')
    })
  await expect(failing()).rejects.toThrow('no')
  expect(await runs.count()).toEqual(
    new Map([
      ['a/a', 2],
      ['b/b', 1],
    ]),
  )
})

test('the runs of a store that did not count them are counted when it is opened', async () => {
  const path = join(temporaryData(), 'fluxd.sqlite')
  openDatabase(path).close()
  // As the version before left it.
  const old = new Sqlite(path)
  old.exec(`
    DROP TRIGGER count_run; DROP TRIGGER queue_entered; DROP TRIGGER queue_left;
    DROP TRIGGER queue_returned; DROP TABLE queue_totals; DROP TABLE runs; ALTER TABLE inputs DROP COLUMN files_json;
    DROP INDEX predictions_queue; DROP INDEX predictions_by_owner; DROP INDEX predictions_held;
    DROP INDEX predictions_by_deadline;
    ${newColumns.map((name) => `ALTER TABLE predictions DROP COLUMN ${name};`).join(' ')}
    CREATE INDEX predictions_by_model ON predictions (model)`)
  old.pragma('user_version = 3')
  for (const id of ['1', '2', '3']) insert(old, id, 'a/a')
  old.close()
  const database = openDatabase(path)
  onTestFinished(() => database.close())
  insert(database.sqlite, '4', 'a/a')
  expect(await createRunCounts(database).count()).toEqual(new Map([['a/a', 4]]))
})
