import { chmodSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { makePrivate } from '../../src/config/privateFolder.js'
import { temporaryFolder } from '../weightFiles.js'

const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)

test('a folder that is missing is made, with its parents, for its owner only', () => {
  const folder = temporaryFolder()
  makePrivate(join(folder, 'a/b'))
  expect([modeOf(join(folder, 'a')), modeOf(join(folder, 'a/b'))]).toEqual(['700', '700'])
})

test('an existing folder loses the rights of others, and nothing else', () => {
  const folder = temporaryFolder()
  for (const [mode, expected] of [
    [0o755, '700'],
    [0o777, '700'],
    [0o500, '500'],
  ] as const) {
    const path = join(folder, String(mode))
    mkdirSync(path)
    chmodSync(path, mode)
    if (mode === 0o500 && process.getuid?.() !== 0)
      expect(() => makePrivate(path)).toThrow(/can be written into \(EACCES\)$/)
    else makePrivate(path)
    expect(modeOf(path)).toBe(expected)
  }
})

test('what can be no folder is an error with its reason, not an endless loop', () => {
  const file = join(temporaryFolder(), 'file')
  writeFileSync(file, '')
  for (const [folder, reason] of [
    [join(file, 'a'), /file\/a to be a folder that can be written into \(E(NOTDIR|EXIST)\)$/],
    ['/proc/fluxd', /\/proc\/fluxd to be a folder that can be written into \(E\w+\)$/],
  ] as const)
    expect(() => makePrivate(folder)).toThrow(reason)
})
