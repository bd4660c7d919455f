/**
 * The tokenizer of CLIP: byte-level BPE on lower-cased text, words ended by `</w>`. Flux's
 * tokenizer/ folders hold vocab.json and merges.txt but no tokenizer.json, so the settings that
 * transformers' CLIPTokenizer gives it are written here.
 * Source: transformers 5, models/clip/tokenization_clip.py.
 *
 * Two things @huggingface/tokenizers 0.2.0 does otherwise than the reference:
 * - it lower-cases the text as a whole, where a Greek Σ at a word's end becomes ς; the reference
 *   lower-cases character by character, and so does the normaliser here;
 * - its `ByteLevel` splits once more by a pattern in which U+FEFF is white space; `Split` has left
 *   nothing for it to split, so that pattern is off.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import { readTokenizerConfig, type SpecialTokenName, type TokenizerConfig } from './config.js'
import { readJson, readText } from './files.js'
import { createTokenizer } from './tokenizer.js'

export type ClipTokenizer = {
  /** `modelMaxLength` ids of `text`: begin, tokens, end, then padding; a longer text is cut. */
  readonly encode: (text: string) => Int32Array
  /** The number of CLIP's positions: 77. */
  readonly modelMaxLength: number
}

const positions = 77

const pattern =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|" +
  '[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+'

const Vocab = z.record(z.string(), z.number().int().nonnegative())
type Vocab = z.output<typeof Vocab>
type Merge = readonly [string, string]

/**
 * The tokenizer of `folder`, from its vocab.json, merges.txt and tokenizer_config.json.
 * Throws `checkpoint_invalid`.
 */
export function loadClipTokenizer(folder: string): ClipTokenizer {
  const vocabPath = join(folder, 'vocab.json')
  const vocab = readJson(vocabPath, Vocab)
  const merges = readMerges(join(folder, 'merges.txt'), vocab)
  const config = readTokenizerConfig(folder)
  const idOf = (name: SpecialTokenName) => {
    const token = config.specialToken(name)
    const id = vocab[token]
    if (id === undefined) throw invalidCheckpoint(`${vocabPath}: expected the ${name} ${token}`)
    return id
  }
  const bos = idOf('bos_token')
  const eos = idOf('eos_token')
  const pad = idOf('pad_token')
  const tokenizer = createTokenizer(settings(vocab, merges, config), cleanUp)
  const modelMaxLength = Math.min(config.modelMaxLength ?? positions, positions)
  return {
    modelMaxLength,
    encode: (text) => {
      const ids = [bos, ...tokenizer.tokenIds(text).slice(0, modelMaxLength - 2), eos]
      return new Int32Array(modelMaxLength).map((_, i) => ids[i] ?? pad)
    },
  }
}

function settings(vocab: Vocab, merges: readonly Merge[], config: TokenizerConfig) {
  const special = new Set([config.specialToken('bos_token'), config.specialToken('eos_token')])
  const unk_token = config.specialToken('unk_token')
  return {
    added_tokens: Array.from(special, (content) => ({
      id: vocab[content]!,
      content,
      special: true,
      normalized: true,
    })),
    model: { type: 'BPE', vocab, merges, end_of_word_suffix: '</w>', unk_token } as const,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ],
    },
  }
}

const cleanUp = (text: string) =>
  Array.from(text.normalize('NFC').replace(/\p{White_Space}+/gu, ' '), (char) =>
    char.toLowerCase(),
  ).join('')

/** The merges in order of rank: one pair a line after a line `#version`. */
function readMerges(path: string, vocab: Vocab): Merge[] {
  const lines = readText(path).split('\n')
  const merges: Merge[] = []
  for (const [i, line] of lines.entries()) {
    if (line.trim() === '' || (i === 0 && line.startsWith('#version'))) continue
    const [left, right, ...rest] = line.trim().split(' ')
    if (!left || !right || rest.length > 0 || vocab[left + right] === undefined)
      throw invalidCheckpoint(
        `${path}: expected two parts of a token of vocab.json in line ${i + 1} but received ` +
          `${JSON.stringify(line)}`,
      )
    merges.push([left, right])
  }
  refuseUnmerged(path, vocab, merges)
  return merges
}

/** A file that ends early would only give other ids, so each token needs its merge. */
function refuseUnmerged(path: string, vocab: Vocab, merges: readonly Merge[]) {
  const reachable = new Set(merges.map(([left, right]) => left + right))
  const missing = Object.keys(vocab).find(
    (token) => !reachable.has(token) && !/^(.(<\/w>)?|<\|.*\|>)$/u.test(token),
  )
  if (missing === undefined) return
  throw invalidCheckpoint(
    `${path}: expected a merge for every token of vocab.json but found none for ` +
      `${JSON.stringify(missing)}`,
  )
}
