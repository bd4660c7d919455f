import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { connect } from '../../src/store/sqlite/connect.js'
import { temporaryData } from '../temporaryData.js'

test('a native part that this Node cannot load is a sentence with its fix', () => {
  const folder = temporaryData()
  const nativeBinding = join(folder, 'of-another-node.node')
  writeFileSync(nativeBinding, 'no library')
  expect(() => connect(join(folder, 'a.sqlite'), { nativeBinding })).toThrow(
    /^Expected better-sqlite3 to be built for Node [\d.]+ but it is not; run `npm rebuild better-sqlite3`/,
  )
})

test('what else goes wrong is thrown as it is', () => {
  expect(() => connect(join(temporaryData(), 'absent', 'a.sqlite'), {})).toThrow(
    'Cannot open database because the directory does not exist',
  )
})
