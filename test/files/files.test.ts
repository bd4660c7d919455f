import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createFiles, type NewFile } from '../../src/files/files.js'
import { openDatabase } from '../../src/store/sqlite/database.js'
import { createFileStore } from '../../src/store/sqlite/files.js'
import { temporaryData } from '../temporaryData.js'

async function openFiles({ quota = 1000, uploadTtlMs = 60_000, folder = temporaryData() } = {}) {
  const database = openDatabase(join(folder, 'fluxd.sqlite'))
  onTestFinished(() => database.close())
  const store = createFileStore(database)
  const files = await createFiles({ folder: join(folder, 'files'), store, quota, uploadTtlMs })
  /** The names of all files on disk. */
  const listDisk = () =>
    readdirSync(join(folder, 'files'), { recursive: true, withFileTypes: true }).flatMap((entry) =>
      entry.isFile() ? [entry.name] : [],
    )
  return { files, listDisk, folder, sqlite: database.sqlite }
}

const upload = (bytes: NewFile['bytes']): NewFile => ({
  kind: 'upload',
  name: 'a.txt',
  contentType: 'text/plain',
  bytes,
  metadata: { from: 'a test' },
  keyId: 'key',
})

async function* chunks(...parts: string[]) {
  for (const part of parts) yield Buffer.from(part)
}

test('a file comes back with its bytes, its digests and when it expires', async () => {
  const { files } = await openFiles()
  const file = await files.add(upload(chunks('hello ', 'world')))
  const bytes = Buffer.from('hello world')
  expect(file).toMatchObject({
    id: expect.stringMatching(/^[0-9a-z]{26}$/),
    name: 'a.txt',
    size: 11,
    md5: createHash('md5').update(bytes).digest('hex'),
    sha256: createHash('sha256').update(bytes).digest('hex'),
    metadata: { from: 'a test' },
    keyId: 'key',
  })
  expect(file.expiresAt!.getTime() - file.createdAt.getTime()).toBe(60_000)
  expect(await files.find(file.id)).toEqual(file)
  expect(Buffer.from(await files.read(file.id))).toEqual(bytes)
  expect(Buffer.concat(await (await files.stream(file.id)).toArray())).toEqual(bytes)
})

test('a file that is removed is gone, and one that was never there is not found', async () => {
  const { files, listDisk } = await openFiles()
  const { id } = await files.add(upload(Buffer.from('a')))
  expect([await files.remove(id), await files.remove(id)]).toEqual([true, false])
  expect(await files.find(id)).toBeUndefined()
  expect(listDisk()).toEqual([])
  await expect(files.read(id)).rejects.toMatchObject({ code: 'not_found' })
  await expect(files.stream('../../etc/passwd')).rejects.toThrow('File not found')
})

describe('the quota', () => {
  test('refuses an upload that does not fit, and keeps nothing of it', async () => {
    const { files, listDisk } = await openFiles({ quota: 10 })
    await files.add(upload(Buffer.from('12345')))
    const tooMuch = files.add(upload(chunks('123', '456')))
    await expect(tooMuch).rejects.toMatchObject({
      code: 'storage_full',
      message: 'Expected room for more files but the quota of 10 bytes is reached',
    })
    expect(listDisk()).toHaveLength(1)
    await files.add(upload(Buffer.from('12345')))
  })

  test('holds for uploads that come at the same time', async () => {
    const { files } = await openFiles({ quota: 10 })
    const results = await Promise.allSettled(
      [1, 2, 3].map(() => files.add(upload(chunks('12', '34', '5')))),
    )
    const { length } = results.filter(({ status }) => status === 'fulfilled')
    expect(length).toBeLessThanOrEqual(2)
    expect(await files.list('upload', { limit: 10 })).toHaveLength(length)
  })

  test('lets a promised output be written, and nothing more begin', async () => {
    const { files } = await openFiles({ quota: 10 })
    await files.assertDiskSpace(10)
    await files.add({ ...upload(Buffer.alloc(20)), kind: 'output', predictionId: 'p' })
    await expect(files.assertDiskSpace(1)).rejects.toMatchObject({
      code: 'storage_full',
      status: 507,
    })
    await files.removeOfPrediction('p')
    await files.assertDiskSpace(10)
  })

  test('counts what was there before the server started', async () => {
    const { files, folder } = await openFiles({ quota: 10 })
    await files.add(upload(Buffer.alloc(8)))
    const { files: again } = await openFiles({ quota: 10, folder })
    await expect(again.assertDiskSpace(3)).rejects.toMatchObject({
      code: 'storage_full',
    })
  })
})

test('a stream that breaks leaves nothing behind', async () => {
  const { files, listDisk } = await openFiles()
  async function* broken() {
    yield Buffer.from('half')
    throw new Error('the client has gone')
  }
  await expect(files.add(upload(broken()))).rejects.toThrow('the client has gone')
  expect(listDisk()).toEqual([])
  await files.assertDiskSpace(1000)
})

test.each(['upload', 'output'] as const)(
  'an %s whose row finds no room is told so, and keeps nothing',
  async (kind) => {
    const { files, listDisk, sqlite } = await openFiles()
    const pages = sqlite.pragma('page_count', { simple: true })
    sqlite.pragma(`max_page_count = ${pages}`)
    const large = { ...upload(Buffer.from('a')), kind, metadata: { note: 'n'.repeat(10_000) } }
    await expect(files.add(large)).rejects.toMatchObject({ code: 'storage_full', status: 507 })
    expect(listDisk()).toEqual([])
    sqlite.pragma('max_page_count = 1000000')
    await files.add(large)
  },
)

test('what has expired is not found, and is removed', async () => {
  const { files, listDisk } = await openFiles({ uploadTtlMs: 0 })
  const { id } = await files.add(upload(Buffer.from('a')))
  expect(await files.find(id)).toBeUndefined()
  await expect(files.read(id)).rejects.toMatchObject({ code: 'not_found' })
  await files.removeExpired()
  expect(listDisk()).toEqual([])
})

test('what an interrupted server left is removed, and nothing else', async () => {
  const { files, listDisk, folder } = await openFiles()
  const { id } = await files.add(upload(Buffer.from('a')))
  mkdirSync(join(folder, 'files/zz'))
  for (const stray of ['zz/zz-without-a-row', 'zz/zz-half.part'])
    writeFileSync(join(folder, 'files', stray), 'stray')
  await files.removeStrays()
  expect(listDisk()).toEqual([id])
})

test('lists are newest first, by kind and in pages', async () => {
  const { files } = await openFiles()
  const ids: string[] = []
  for (const text of ['1', '2', '3']) ids.unshift((await files.add(upload(chunks(text)))).id)
  await files.add({ ...upload(Buffer.from('o')), kind: 'output' })
  const page = await files.list('upload', { limit: 2 })
  expect(page.map(({ file }) => file.id)).toEqual(ids.slice(0, 2))
  const rest = await files.list('upload', { limit: 2, before: page.at(-1)!.sequence })
  expect(rest.map(({ file }) => file.id)).toEqual(ids.slice(2))
})
