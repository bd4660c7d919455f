import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { takeLock } from '../../src/store/sqlite/dataDirLock.js'
import { temporaryData } from '../temporaryData.js'

function openTemporary() {
  const path = join(temporaryData(), 'fluxd.sqlite')
  const database = openDatabase(path)
  onTestFinished(() => database.close())
  return { path, ...database }
}

test('a write survives the end of the process at any time', () => {
  const { sqlite } = openTemporary()
  expect(sqlite.pragma('journal_mode', { simple: true })).toBe('wal')
  // FULL: every commit is synced.
  expect(sqlite.pragma('synchronous', { simple: true })).toBe(2)
})

test('a second start finds the tables as they were, and changes nothing', () => {
  const path = join(temporaryData(), 'fluxd.sqlite')
  const schemaOf = () => {
    const { sqlite, close } = openDatabase(path)
    const schema = sqlite.prepare('SELECT name, sql FROM sqlite_schema ORDER BY name').all()
    close()
    return schema
  }
  expect(schemaOf()).toEqual(schemaOf())
})

describe('a file that cannot be used is refused with a sentence', () => {
  test('one that is no database', () => {
    const path = join(temporaryData(), 'fluxd.sqlite')
    writeFileSync(path, 'this is not a database, '.repeat(1000))
    expect(() => openDatabase(path)).toThrow(
      /Expected .*fluxd\.sqlite to be the store of fluxd but it is damaged \(.*\); restore a copy/,
    )
  })

  test('one that is damaged inside', () => {
    const path = join(temporaryData(), 'fluxd.sqlite')
    openDatabase(path).close()
    const bytes = readFileSync(path)
    // The pages after the first, which holds the schema.
    bytes.fill(0xab, 4096)
    writeFileSync(path, bytes)
    expect(() => openDatabase(path)).toThrow(/but it is damaged/)
  })

  test('one that a newer fluxd has written', () => {
    const path = join(temporaryData(), 'fluxd.sqlite')
    const newer = new Sqlite(path)
    newer.pragma('user_version = 999')
    newer.close()
    expect(() => openDatabase(path)).toThrow(/but it is of 999: a newer fluxd has written it/)
  })
})

const insert = (sqlite: Sqlite.Database, name: string) => () => {
  const bytes = Buffer.alloc(1)
  sqlite.prepare('INSERT INTO secrets VALUES (?, ?)').run(name, bytes)
  return name
}
const names = (sqlite: Sqlite.Database) =>
  sqlite.prepare('SELECT name FROM secrets ORDER BY name').pluck().all()

describe('commitLater', () => {
  const [normal, full] = [1, 2]
  const levelOf = (sqlite: Sqlite.Database) => sqlite.pragma('synchronous', { simple: true })

  test('writes at once and without a sync; what follows is synced again', () => {
    const { sqlite, commitLater } = openTemporary()
    const level = commitLater(() => {
      insert(sqlite, 'a')()
      return levelOf(sqlite)
    })
    expect(names(sqlite)).toEqual(['a'])
    expect([level, levelOf(sqlite)]).toEqual([normal, full])
    expect(() => commitLater(insert(sqlite, 'a'))).toThrow(/UNIQUE/)
    expect(levelOf(sqlite)).toBe(full)
  })

  test('goes with the transaction that it is part of', () => {
    const { sqlite, commit, commitLater } = openTemporary()
    expect(() =>
      commit(() => {
        commitLater(insert(sqlite, 'a'))
        expect(levelOf(sqlite)).toBe(full)
        throw new Error('rolled back')
      }),
    ).toThrow('rolled back')
    expect(names(sqlite)).toEqual([])
  })
})

describe('commitSoon', () => {
  test('writes what comes in one turn with one sync, and answers everybody', async () => {
    const { sqlite, commitSoon } = openTemporary()
    let commits = 0
    const all = ['a', 'b', 'c'].map((name) => commitSoon(insert(sqlite, name)))
    // Nothing is on disk before it is acknowledged.
    expect(names(sqlite)).toEqual([])
    for (const written of all) void written.then(() => commits++)
    expect(await Promise.all(all)).toEqual(['a', 'b', 'c'])
    expect(names(sqlite)).toEqual(['a', 'b', 'c'])
  })

  test('lets one write fail without the others', async () => {
    const { sqlite, commitSoon } = openTemporary()
    const results = await Promise.allSettled([
      commitSoon(insert(sqlite, 'a')),
      commitSoon(insert(sqlite, 'a')),
      commitSoon(insert(sqlite, 'b')),
    ])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(names(sqlite)).toEqual(['a', 'b'])
  })

  test('closing writes what was still to be written', async () => {
    const path = join(temporaryData(), 'fluxd.sqlite')
    const { sqlite, commitSoon, close } = openDatabase(path)
    const written = commitSoon(insert(sqlite, 'a'))
    close()
    expect(await written).toBe('a')
    const again = openDatabase(path)
    expect(names(again.sqlite)).toEqual(['a'])
    again.close()
  })
})

test('a full disk is a sentence, and what was there stays', () => {
  const { sqlite, commit } = openTemporary()
  const pages = sqlite.pragma('page_count', { simple: true }) as number
  sqlite.pragma(`max_page_count = ${pages}`)
  const fill = () =>
    commit(() =>
      sqlite.prepare('INSERT INTO secrets VALUES (?, ?)').run('big', Buffer.alloc(100_000)),
    )
  expect(fill).toThrow(/Expected room for .*fluxd\.sqlite but the disk is full/)
  expect(fill).toThrow(expect.objectContaining({ code: 'storage_full', status: 507 }))
  sqlite.pragma('max_page_count = 1000000')
  fill()
  expect(sqlite.prepare('SELECT count(*) FROM secrets').pluck().get()).toBe(1)
})

test('a folder that cannot be one is a sentence', () => {
  const file = join(temporaryData(), 'file')
  writeFileSync(file, '')
  const path = join(file, 'fluxd.sqlite')
  const sentence = `Expected ${file} to be a folder that can be written into (EEXIST)`
  expect(() => openDatabase(path)).toThrow(sentence)
  expect(() => takeLock(path)).toThrow(sentence)
})

test('a data folder has one server: the second is refused until the first has gone', () => {
  const path = join(temporaryData(), 'fluxd.lock')
  const unlock = takeLock(path)
  expect(() => takeLock(path)).toThrow(/to be free but another fluxd serves from it/)
  unlock()
  takeLock(path)()
})
