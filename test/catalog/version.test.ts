import {
  cpSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openCatalog } from '../../src/catalog/catalog.js'
import { fingerprintCheckpoint } from '../../src/catalog/fingerprint.js'
import { digestContent, type Resolution, versionOf } from '../../src/catalog/version.js'
import { writeTensors } from '../weightFiles.js'
import { checkpoints, copyCheckpoint, makeFolder, makeFolders, writeInto } from './folders.js'

const resolution: Resolution = {
  fingerprint: 'f',
  base: 'dev',
  loras: [
    { pin: 'a', scale: 1 },
    { pin: 'b', scale: 0.5 },
  ],
  defaults: { guidance_scale: 2, num_outputs: 4 },
}

describe('a version', () => {
  test('is this digest on every machine', () => {
    // printf '%s' '{"base":"dev","defaults":{"guidance_scale":2,"num_outputs":4},"fingerprint":"f",
    // "loras":[{"pin":"a","scale":1},{"pin":"b","scale":0.5}]}' (one line) | sha256sum
    expect(digestContent(resolution)).toBe(
      '9a0233ae959be3efbb68bdda45ea98c848f82330747c2c8d2495ca5c3cc2087e',
    )
  })

  test('does not depend on the order of keys', () => {
    const { defaults, loras, base, fingerprint } = resolution
    const { guidance_scale, num_outputs } = defaults
    expect(
      digestContent({ defaults: { num_outputs, guidance_scale }, loras, base, fingerprint }),
    ).toBe(digestContent(resolution))
  })

  test.each<[string, Partial<Resolution>]>([
    ['checkpoint', { fingerprint: 'g' }],
    ['base', { base: 'schnell' }],
    ['LoRA', { loras: [{ pin: 'c', scale: 1 }, resolution.loras[1]!] }],
    ['scale', { loras: [{ pin: 'a', scale: 0.9 }, resolution.loras[1]!] }],
    ['order', { loras: resolution.loras.toReversed() }],
    ['number of LoRAs', { loras: resolution.loras.slice(0, 1) }],
    ['value of a default', { defaults: { guidance_scale: 2, num_outputs: 3 } }],
    ['set of defaults', { defaults: { guidance_scale: 2 } }],
  ])('changes with the %s', (_part, change) => {
    expect(digestContent({ ...resolution, ...change })).not.toBe(digestContent(resolution))
  })
})

describe('the version of a model', () => {
  const versionIn = async (folder: string, entry: object, readme = '') => {
    writeInto(folder, 'me/a.json', entry)
    writeInto(folder, 'me/a.md', readme)
    const folders = { ...makeFolders(), own: folder }
    return (await openCatalog({ folders, checkpoints })).find('me', 'a')!.version
  }

  test('is that of its LoRA’s content, wherever it lies', async () => {
    const [one, other] = [makeFolder(), makeFolder()]
    writeInto(one, 'me/a.safetensors', 'weights')
    writeInto(other, 'elsewhere/b.safetensors', 'weights')
    const version = await versionIn(one, { loras: [{ file: './a.safetensors' }] })
    expect(await versionIn(one, { loras: [{ file: './a.safetensors' }] })).toBe(version)
    for (const file of ['../elsewhere/b.safetensors', join(other, 'elsewhere/b.safetensors')])
      expect(await versionIn(other, { loras: [{ file }] })).toBe(version)
    writeInto(one, 'me/a.safetensors', 'other weights')
    expect(await versionIn(one, { loras: [{ file: './a.safetensors' }] })).not.toBe(version)
  })

  test('pins what is not here by its digest, else by its reference', async () => {
    const folder = makeFolder()
    const versionOfLora = (lora: object) => versionIn(folder, { loras: [lora] })
    const [sha256, otherSha256] = ['1'.repeat(64), '2'.repeat(64)]
    const unpinned = await versionOfLora({ source: 'fofr/flux-pixar-cars' })
    expect(await versionOfLora({ source: 'fofr/flux-pixar' })).not.toBe(unpinned)
    const pinned = await versionOfLora({ source: 'fofr/flux-pixar-cars', sha256 })
    expect(pinned).not.toBe(unpinned)
    expect(await versionOfLora({ source: 'mirror/cars', sha256 })).toBe(pinned)
    expect(await versionOfLora({ source: 'mirror/cars', sha256: otherSha256 })).not.toBe(pinned)
  })

  test('is not changed by words', async () => {
    const folder = makeFolder()
    const plain = await versionIn(folder, {})
    const entry = {
      description: 'A pirate.',
      triggerWord: 'ARR',
      createdAt: '2025-01-01T00:00:00Z',
    }
    expect(await versionIn(folder, entry, '# Arr')).toBe(plain)
  })
})

describe('the fingerprint of a checkpoint', () => {
  const original = fingerprintCheckpoint(checkpoints.dev)
  const weights = 'transformer/diffusion_pytorch_model.safetensors'

  test('is that of its copy, and another for another checkpoint', () => {
    expect(original).toMatch(/^[0-9a-f]{64}$/)
    expect(fingerprintCheckpoint(copyCheckpoint())).toBe(original)
    expect(fingerprintCheckpoint(checkpoints.schnell)).not.toBe(original)
  })

  test.each([
    ['a config', 'transformer/config.json'],
    ['the scheduler', 'scheduler/scheduler_config.json'],
    ['a tokenizer', 'tokenizer/merges.txt'],
    ['a sentencepiece model', 'tokenizer_2/spiece.model'],
  ])('changes with %s', (_what, name) => {
    const copy = copyCheckpoint()
    writeFileSync(join(copy, name), `${readFileSync(join(copy, name), 'latin1')} `, 'latin1')
    expect(fingerprintCheckpoint(copy)).not.toBe(original)
  })

  test('changes with weights of the same shapes', () => {
    const copy = copyCheckpoint()
    const file = join(copy, weights)
    writeSync(openSync(file, 'r+'), Buffer.alloc(4096, 1), 0, 4096, statSync(file).size / 2)
    expect(fingerprintCheckpoint(copy)).not.toBe(original)
  })

  test('does not see what is no part of it', () => {
    const copy = copyCheckpoint()
    writeInto(copy, 'README.md', 'text')
    writeInto(copy, 'transformer/.cache/a.json', '{}')
    writeInto(copy, 'transformer/preview.png', 'pixels')
    expect(fingerprintCheckpoint(copy)).toBe(original)
  })

  test('of a single file counts the autoencoder and the text side beside it', () => {
    const folder = makeFolder()
    const shape = { w: [2, 2] }
    const file = writeTensors(join(folder, 'flux1-dev.safetensors'), shape, () =>
      Float32Array.of(1, 2, 3, 4),
    )
    for (const name of ['vae', 'text_encoder', 'tokenizer'])
      cpSync(join(checkpoints.dev, name), join(folder, name), { recursive: true })
    const withFolder = fingerprintCheckpoint(file)
    renameSync(file, join(folder, 'mine.safetensors'))
    expect(fingerprintCheckpoint(join(folder, 'mine.safetensors'))).toBe(withFolder)
    writeTensors(join(folder, 'ae.safetensors'), shape, () => Float32Array.of(1, 2, 3, 4))
    const withFile = fingerprintCheckpoint(join(folder, 'mine.safetensors'))
    expect(withFile).not.toBe(withFolder)
    writeInto(folder, 'tokenizer/vocab.json', '{}')
    expect(fingerprintCheckpoint(join(folder, 'mine.safetensors'))).not.toBe(withFile)
  })

  test('names what is missing and what is damaged', () => {
    expect(() => fingerprintCheckpoint('/nonexistent')).toThrow(
      '/nonexistent: expected a diffusers',
    )
    const copy = copyCheckpoint()
    writeFileSync(join(copy, weights), 'damaged')
    expect(() => fingerprintCheckpoint(copy)).toThrow(join(copy, weights))
  })
})

test('models of equal content have different ids; the digest of the content is the same', () => {
  const digest = digestContent(resolution)
  expect(versionOf('me/a', digest)).toMatch(/^[0-9a-f]{64}$/)
  expect(versionOf('me/a', digest)).toBe(versionOf('me/a', digest))
  expect(versionOf('me/a', digest)).not.toBe(versionOf('me/b', digest))
})
