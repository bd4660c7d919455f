import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadT5Tokenizer } from '../../../src/engine/tokenizers/t5.js'
import { fixturePath, readFixtureJson } from '../../goldens.js'

// biome-ignore lint/suspicious/noExplicitAny: a tokenizer.json to be damaged
type TokenizerJson = any
type GoldenText = { text: string; t5_ids: number[]; t5_ids_64: number[] }

// tiny-dev has the newer style of tokenizer.json, tiny-schnell the older one.
const models = ['tiny-dev', 'tiny-schnell'] as const

describe.each(models)('T5 ids of %s', (model) => {
  const tokenizer = loadT5Tokenizer(fixturePath(`${model}/tokenizer_2`))
  const { strings } = readFixtureJson(`cases/tokens_${model}.json`) as { strings: GoldenText[] }

  test.each(strings)('equal the golden ids of $text', ({ text, t5_ids, t5_ids_64 }) => {
    expect(Array.from(tokenizer.encode(text, 64))).toEqual(t5_ids_64)
    expect(Array.from(tokenizer.encode(text, t5_ids.length))).toEqual(t5_ids)
  })
})

describe('what sentencepiece 0.2.2 gives where its other implementations differ', () => {
  const tokenizer = loadT5Tokenizer(fixturePath('tiny-dev/tokenizer_2'))

  test.each([
    ['a decomposed kana is composed', 'か\u3099', [3, 488]],
    ['U+0085 is a character, not white space', '3\u0085x', [3, 67, 2, 55]],
    ['a line break is white space', ' a\r\n photo', [38, 113, 35, 10, 74]],
    ['the lower one block is white space', '▁ 1,000', [3, 50, 8, 37, 37, 37]],
    ['the joiner inside emoji is no white space', 'a\u200dx', [38, 2, 55]],
    ['a fullwidth tilde stays one', '1～1', [3, 50, 2, 50]],
  ])('%s', (_, text, ids) => {
    expect(Array.from(tokenizer.encode(text, ids.length + 1))).toEqual([...ids, 1])
  })
})

test('a word of 200,000 letters is cut off like any long text', () => {
  const tokenizer = loadT5Tokenizer(fixturePath('tiny-dev/tokenizer_2'))
  const ids = tokenizer.encode('abcdefgh'.repeat(25_000), 64)
  expect(ids.subarray(0, 63)).toEqual(tokenizer.encode('abcdefgh'.repeat(100), 64).subarray(0, 63))
  expect(ids[63]).toBe(1)
})

test("the model length is the config's", () => {
  expect(loadT5Tokenizer(fixturePath('tiny-dev/tokenizer_2')).modelMaxLength).toBe(512)
})

describe('a damaged T5 tokenizer is refused by the name of its file', () => {
  const damage = (change: (json: TokenizerJson) => void) => () => {
    const folder = mkdtempSync(join(tmpdir(), 'fluxd-t5-'))
    const path = join(folder, 'tokenizer.json')
    try {
      cpSync(fixturePath('tiny-dev/tokenizer_2'), folder, { recursive: true })
      const json = JSON.parse(readFileSync(path, 'utf8'))
      change(json)
      writeFileSync(path, JSON.stringify(json))
      loadT5Tokenizer(folder)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  test('a folder without files', () => {
    const folder = fixturePath('tiny-dev/vae')
    expect(() => loadT5Tokenizer(folder)).toThrow(/tokenizer\.json: expected a file/)
  })

  test.each([
    [
      'no vocabulary',
      (json: TokenizerJson) => delete json.model.vocab,
      /tokenizer\.json: .*vocab/s,
    ],
    [
      'another model',
      (json: TokenizerJson) => Object.assign(json.model, { type: 'BPE' }),
      /Unigram/,
    ],
    [
      'unknown piece out of range',
      (json: TokenizerJson) => Object.assign(json.model, { unk_id: 9999 }),
      /expected unk_id below \d+ but received 9999/,
    ],
    [
      'charsmap cut off',
      (json: TokenizerJson) =>
        Object.assign(json.normalizer.normalizers[0], { precompiled_charsmap: 'AL' }),
      /tokenizer\.json: expected a precompiled_charsmap/,
    ],
  ])('%s', (_, change, message) => {
    expect(damage(change)).toThrow(message)
    expect(damage(change)).toThrow(expect.objectContaining({ code: 'checkpoint_invalid' }))
  })
})
