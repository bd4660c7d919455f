import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { addKey, listKeys, removeKey } from '../../src/cli/keys.js'
import { temporaryData } from '../temporaryData.js'

function prepare() {
  const stdout = new PassThrough()
  return {
    context: { config: { dataDir: temporaryData() }, stdout },
    printed: () => String(stdout.read() ?? ''),
  }
}

const flags = { scope: ['predict'], priority: '0', rate: '0' }

test('fluxd keys adds a key, lists it without showing it, and ends it', async () => {
  const { context, printed } = prepare()
  await addKey('me', flags, context)
  const key = printed().trim()
  await listKeys({}, context)
  const [head, line] = printed().split('\n')
  expect(head).toMatch(/^NAME {2}ID +SCOPES +PRIORITY +RATE +CREATED$/)
  expect(line).toMatch(/^me {4}[0-9a-f]{12} {2}predict {2}0 +no limit {2}\d{4}-/)
  expect(line).not.toContain(key)
  await listKeys({ json: true }, context)
  const record = { name: 'me', scopes: ['predict'], priority: 0, ratePerMinute: 0 }
  const [listed] = JSON.parse(printed())
  expect(listed).toMatchObject(record)
  expect(listed).not.toHaveProperty('hash')
  await removeKey('me', context)
  expect(printed()).toBe('removed me\n')
  await listKeys({}, context)
  expect(printed()).toMatch(/^There are no keys yet; /)
  await expect(removeKey('me', context)).rejects.toThrow('There is no key named me')
})

test('scopes may be separated by commas', async () => {
  const { context, printed } = prepare()
  await addKey('me', { ...flags, scope: ['predict,metrics'] }, context)
  printed()
  await listKeys({}, context)
  expect(printed()).toContain('predict,metrics')
})

test.each([
  [{ ...flags, rate: '-1' }, 'Expected --rate to be an integer from 0 to 1000000 but received -1'],
  [{ ...flags, priority: '1e1' }, 'Expected --priority to be an integer from -100 to 100'],
  [{ ...flags, scope: ['all'] }, 'Expected --scope to be one of predict, '],
])('fluxd keys add with %j is refused', async (wrong, sentence) => {
  await expect(addKey('me', wrong, prepare().context)).rejects.toThrow(sentence)
})
