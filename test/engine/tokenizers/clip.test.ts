import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadClipTokenizer } from '../../../src/engine/tokenizers/clip.js'
import { fixturePath, readFixtureJson } from '../../goldens.js'

type GoldenText = { text: string; clip_ids: number[] }

const models = ['tiny-dev', 'tiny-schnell'] as const

describe.each(models)('CLIP ids of %s', (model) => {
  const tokenizer = loadClipTokenizer(fixturePath(`${model}/tokenizer`))
  const { strings } = readFixtureJson(`cases/tokens_${model}.json`) as { strings: GoldenText[] }

  test.each(strings)('equal the golden ids of $text', ({ text, clip_ids }) => {
    expect(Array.from(tokenizer.encode(text))).toEqual(clip_ids)
  })
})

// Expected by transformers 5.18, CLIPTokenizer, on the vocabulary of tiny-dev.
test('a Greek sigma at the end of a word is lower-cased as anywhere else', () => {
  const tokenizer = loadClipTokenizer(fixturePath('tiny-dev/tokenizer'))
  expect(tokenizer.encode('ΣΑΣ')).toEqual(tokenizer.encode('σασ'))
})

test('a byte order mark is a symbol like any other', () => {
  const tokenizer = loadClipTokenizer(fixturePath('tiny-dev/tokenizer'))
  const ids = [912, 171, 119, 123, 158, 222, 242, 283, 321, 285, 913]
  expect(Array.from(tokenizer.encode('\ufeff—<b>').subarray(0, ids.length))).toEqual(ids)
})

describe('a damaged CLIP tokenizer is refused by the name of its file', () => {
  const damage = (name: string, change: (text: string) => string) => () => {
    const folder = mkdtempSync(join(tmpdir(), 'fluxd-clip-'))
    try {
      cpSync(fixturePath('tiny-dev/tokenizer'), folder, { recursive: true })
      const text = change(readFileSync(join(folder, name), 'utf8'))
      if (text === '') rmSync(join(folder, name))
      else writeFileSync(join(folder, name), text)
      loadClipTokenizer(folder)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  test.each([
    ['missing vocabulary', 'vocab.json', () => '', /vocab\.json: expected a file/],
    ['missing merges', 'merges.txt', () => '', /merges\.txt: expected a file/],
    [
      'missing config',
      'tokenizer_config.json',
      () => '',
      /tokenizer_config\.json: expected a file/,
    ],
    [
      'vocabulary cut off',
      'vocab.json',
      (t: string) => t.slice(0, 500),
      /vocab\.json: expected JSON/,
    ],
    ['vocabulary of another kind', 'vocab.json', () => '{"a":"b"}', /vocab\.json/],
    [
      'merges cut off within a line',
      'merges.txt',
      (t: string) => t.slice(0, t.lastIndexOf(' ')),
      /merges\.txt: expected two parts .* in line 401/,
    ],
    [
      'merges cut off after a line',
      'merges.txt',
      (t: string) => t.split('\n').slice(0, 100).join('\n'),
      /merges\.txt: expected a merge for every token/,
    ],
    [
      'end token not in the vocabulary',
      'vocab.json',
      (t: string) => t.replace('<|endoftext|>', '<|end|>'),
      /vocab\.json: expected the eos_token <\|endoftext\|>/,
    ],
  ])('%s', (_, name, change, message) => {
    expect(damage(name, change)).toThrow(message)
    expect(damage(name, change)).toThrow(expect.objectContaining({ code: 'checkpoint_invalid' }))
  })
})
