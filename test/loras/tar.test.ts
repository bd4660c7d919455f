/** What is taken out of a tar, and what is refused. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import { expect, onTestFinished, test } from 'vitest'
import { unpackSafetensors } from '../../src/loras/tar.js'
import { makeTar, makeWeights, sha256 } from './hosts.js'

const weights = makeWeights(200_000)
const never = new AbortController().signal

function unpack(tar: Buffer, maxBytes = 2 ** 20, signal = never) {
  const folder = mkdtempSync(join(tmpdir(), 'fluxd-tar-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'entry')
  // In pieces that cut headers in two.
  const pieces = Array.from({ length: Math.ceil(tar.length / 1000) }, (_, i) =>
    tar.subarray(1000 * i, 1000 * (i + 1)),
  )
  const stream = Readable.from(pieces)
  const unpacking = unpackSafetensors(stream, path, 'tarball', maxBytes, signal)
  return { folder, path, stream, unpacking }
}

/** As Replicate's trainer packs it. */
const trained = () =>
  makeTar([
    ['output/', Buffer.alloc(0), 'directory'],
    ['output/flux_train_replicate/captions.txt', Buffer.from('a fox')],
    ['output/flux_train_replicate/lora.safetensors', weights],
    ['output/flux_train_replicate/config.yaml', Buffer.from('rank: 16')],
  ])

test.each([
  ['plain', (tar: Buffer) => tar],
  ['gzip', gzipSync],
])('the only .safetensors comes out of a %s tar, wherever it lies', async (_, compress) => {
  const { path, unpacking } = unpack(compress(await trained()))
  expect(await unpacking).toEqual({ bytes: weights.length, sha256: sha256(weights) })
  expect(readFileSync(path)).toEqual(weights)
})

test('names that climb out of the folder decide nothing', async () => {
  const { folder, unpacking } = unpack(
    await makeTar([
      ['../../escape.txt', Buffer.from('x')],
      ['/tmp/../../../evil.safetensors', weights],
    ]),
  )
  expect(await unpacking).toMatchObject({ bytes: weights.length })
  expect(readdirSync(folder)).toEqual(['entry'])
})

test.each([
  ['nothing', []],
  ['no weights', [['config.yaml', Buffer.from('a')]]],
  ['a folder of that name', [['lora.safetensors', Buffer.alloc(0), 'directory']]],
  ['a link of that name', [['lora.safetensors', Buffer.alloc(0), 'symlink']]],
] as const)('a tar with %s is refused', async (_, entries) => {
  const { path, unpacking } = unpack(await makeTar(entries))
  await expect(unpacking).rejects.toMatchObject({
    code: 'lora_invalid',
    message: 'No .safetensors file found in tarball',
  })
  expect(existsSync(path)).toBe(false)
})

test('a tar with two is refused', async () => {
  const tar = await makeTar([
    ['a.safetensors', weights],
    ['b/c.safetensors', weights],
  ])
  await expect(unpack(tar).unpacking).rejects.toThrow(
    'Multiple .safetensors files found in tarball',
  )
})

test('an entry that is too large is refused by its header', async () => {
  const { path, unpacking } = unpack(await trained(), 199_999)
  await expect(unpacking).rejects.toThrow(
    /but its .safetensors has \d+ bytes and at most 199999 are taken$/,
  )
  expect(existsSync(path)).toBe(false)
})

test('a bomb is refused while it unpacks', async () => {
  // 300 MB of zeros in 300 kB, before the weights.
  const bomb = gzipSync(
    await makeTar([
      ['zeros', Buffer.alloc(300 * 2 ** 20)],
      ['a.safetensors', weights],
    ]),
    { level: 1 },
  )
  await expect(unpack(bomb).unpacking).rejects.toThrow(/but it unpacks to more than \d+ bytes$/)
})

test.each([
  ['bzip2', 'BZh91AY&SY'],
  ['xz', '\xfd7zXZ\0\0'],
  ['Zstandard', '\x28\xb5\x2f\xfd\x04'],
])('a tar that is compressed with %s is refused by name', async (name, magic) => {
  await expect(unpack(Buffer.from(magic, 'latin1')).unpacking).rejects.toThrow(
    `it is compressed with ${name} and only plain and gzip ones are read`,
  )
})

test.each([
  ['is cut off in the weights', (tar: Buffer) => tar.subarray(0, 100_000)],
  ['is cut off in the compressed bytes', (tar: Buffer) => gzipSync(tar).subarray(0, 50_000)],
  ['is none', () => Buffer.from('<html>not a tar</html>'.repeat(100))],
  ['is damaged', (tar: Buffer) => Buffer.concat([tar.subarray(0, 512), Buffer.alloc(2000, 7)])],
])('a tar that %s is refused', async (_, damage) => {
  const { unpacking } = unpack(damage(await trained()))
  await expect(unpacking).rejects.toMatchObject({
    code: 'lora_invalid',
    message: expect.stringMatching(/^Expected a tar in the tarball but it cannot be read: ./),
  })
})

test('an empty one is refused', async () => {
  await expect(unpack(Buffer.alloc(0)).unpacking).rejects.toThrow(
    'No .safetensors file found in tarball',
  )
})

test('unpacking ends when it is canceled, and so does reading', async () => {
  const canceling = new AbortController()
  const { stream, unpacking } = unpack(await trained(), 2 ** 20, canceling.signal)
  canceling.abort()
  await expect(unpacking).rejects.toMatchObject({ code: 'canceled' })
  await expect.poll(() => stream.destroyed).toBe(true)
})
