import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
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

describe('a later write', () => {
  test('is made without a sync; what follows is synced again', async () => {
    const { sqlite, writeLater } = openTemporary()
    const [normal, full] = [1, 2]
    const level = await writeLater(() => {
      insert(sqlite, 'a')()
      return sqlite.pragma('synchronous', { simple: true })
    })
    expect(names(sqlite)).toEqual(['a'])
    expect([level, sqlite.pragma('synchronous', { simple: true })]).toEqual([normal, full])
    await expect(writeLater(insert(sqlite, 'a'))).rejects.toThrow(/UNIQUE/)
    expect(sqlite.pragma('synchronous', { simple: true })).toBe(full)
  })

  test('in one turn with a write is synced with it', async () => {
    const { sqlite, write, writeLater } = openTemporary()
    const later = writeLater(() => sqlite.pragma('synchronous', { simple: true }))
    expect((await Promise.all([later, write(insert(sqlite, 'a'))]))[0]).toBe(2)
  })
})

describe('a write', () => {
  test('of one turn shares one sync with the others, and each is answered', async () => {
    const { sqlite, write } = openTemporary()
    const all = ['a', 'b', 'c'].map((name) => write(insert(sqlite, name)))
    // Nothing is on disk before it is acknowledged.
    expect(names(sqlite)).toEqual([])
    expect(await Promise.all(all)).toEqual(['a', 'b', 'c'])
    expect(names(sqlite)).toEqual(['a', 'b', 'c'])
  })

  test('fails without the others', async () => {
    const { sqlite, write } = openTemporary()
    const results = await Promise.allSettled([
      write(insert(sqlite, 'a')),
      write(insert(sqlite, 'a')),
      write(insert(sqlite, 'b')),
    ])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect(names(sqlite)).toEqual(['a', 'b'])
  })

  test('waits for a lock of another process without blocking the thread', async () => {
    const { path, sqlite, write } = openTemporary()
    const other = new Sqlite(path)
    onTestFinished(() => void other.close())
    other.exec('BEGIN IMMEDIATE')
    const written = write(insert(sqlite, 'a'))
    let turns = 0
    const turn = setInterval(() => turns++, 1)
    await vi.waitFor(() => expect(turns).toBeGreaterThan(50), 10_000)
    clearInterval(turn)
    expect(names(sqlite)).toEqual([])
    other.exec('COMMIT')
    expect(await written).toBe('a')
  })

  test('that is still to be made is made when the store closes', async () => {
    const path = join(temporaryData(), 'fluxd.sqlite')
    const { sqlite, write, close } = openDatabase(path)
    const written = write(insert(sqlite, 'a'))
    close()
    expect(await written).toBe('a')
    const again = openDatabase(path)
    expect(names(again.sqlite)).toEqual(['a'])
    again.close()
  })
})

test('a full disk is a sentence, and what was there stays', async () => {
  const { sqlite, write } = openTemporary()
  const pages = sqlite.pragma('page_count', { simple: true }) as number
  sqlite.pragma(`max_page_count = ${pages}`)
  const fill = () =>
    write(() =>
      sqlite.prepare('INSERT INTO secrets VALUES (?, ?)').run('big', Buffer.alloc(100_000)),
    )
  await expect(fill()).rejects.toMatchObject({
    code: 'storage_full',
    status: 507,
    message: expect.stringMatching(/^Expected room for .*fluxd\.sqlite but the disk is full/),
  })
  sqlite.pragma('max_page_count = 1000000')
  await fill()
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
