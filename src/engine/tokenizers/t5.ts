/**
 * The tokenizer of T5: SentencePiece unigram, read from tokenizer.json.
 *
 * What the file says is kept but for two parts, which @huggingface/tokenizers 0.2.0 does otherwise
 * than SentencePiece:
 * - `Precompiled` ignores the charsmap and approximates it by NFKC and a list of white space, in
 *   which the package counts U+200D, the joiner inside emoji; NFKC also reorders stacked marks,
 *   which the charsmap does not. Replaced by charsmap.ts.
 * - Whitespace. SentencePiece drops it at both ends, collapses it between words and starts each
 *   word with ▁. Newer files say so by Strip, Replace and Metaspace, older ones by WhitespaceSplit
 *   and Metaspace. Both come to the same, so both are read as the latter; splitting into words
 *   also bounds the lattice, because no piece of T5 crosses a space.
 * The charsmap takes the longest match, as SentencePiece does. Hugging Face's Rust tokenizers
 * look at graphemes below six bytes only, and leave some decomposed text (か + U+3099) decomposed.
 */
import { join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import { readCharsmap } from './charsmap.js'
import { readTokenizerConfig } from './config.js'
import { readJson } from './files.js'
import { createTokenizer } from './tokenizer.js'

export type T5Tokenizer = {
  /**
   * `maxLength` ids of `text`: its tokens, `</s>`, then padding. A text that is too long loses its
   * end; `</s>` stays last.
   */
  readonly encode: (text: string, maxLength: number) => Int32Array
  /** The length that the model was made for, in tokens. */
  readonly modelMaxLength: number
}

/** What FluxPipeline accepts as `max_sequence_length`, at most. */
const longestPrompt = 512

const Normalizer = z.object({ precompiled_charsmap: z.string().nullish() })

const TokenizerJson = z.object({
  added_tokens: z.array(z.looseObject({ id: z.number().int(), content: z.string() })),
  normalizer: Normalizer.extend({ normalizers: z.array(Normalizer).optional() }).nullish(),
  model: z.object({
    type: z.literal('Unigram').default('Unigram'),
    unk_id: z.number().int().nonnegative(),
    vocab: z.array(z.tuple([z.string(), z.number()])).min(1),
  }),
})
type TokenizerJson = z.output<typeof TokenizerJson>

/** Reads tokenizer.json and tokenizer_config.json of `folder`; throws `checkpoint_invalid`. */
export function loadT5Tokenizer(folder: string): T5Tokenizer {
  const path = join(folder, 'tokenizer.json')
  const json = readJson(path, TokenizerJson)
  const config = readTokenizerConfig(folder)
  refuseUnknown(json.model, path)
  const { added_tokens, model } = json
  const tokenizer = createTokenizer(
    { added_tokens, model, pre_tokenizer },
    normalizerOf(json, path),
  )
  const idOf = (name: 'eos_token' | 'pad_token') => {
    const token = config.specialToken(name)
    const id = tokenizer.idOf(token)
    if (id === undefined) throw invalidCheckpoint(`${path}: expected the ${name} ${token} in it`)
    return id
  }
  const eos = idOf('eos_token')
  const pad = idOf('pad_token')
  return {
    modelMaxLength: Math.min(config.modelMaxLength ?? longestPrompt, longestPrompt),
    encode: (text, maxLength) => {
      const ids = [...tokenizer.tokenIds(text).slice(0, maxLength - 1), eos]
      return new Int32Array(maxLength).map((_, i) => ids[i] ?? pad)
    },
  }
}

const pre_tokenizer = {
  type: 'Sequence',
  pretokenizers: [
    { type: 'WhitespaceSplit' },
    { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    // The package spreads a word's tokens into an argument list; no word of a prompt is as long.
    { type: 'FixedLength', length: 10_000 },
  ],
}

function normalizerOf({ normalizer }: TokenizerJson, path: string) {
  const charsmap = [normalizer, ...(normalizer?.normalizers ?? [])].find(
    (each) => each?.precompiled_charsmap,
  )?.precompiled_charsmap
  return charsmap ? readCharsmap(charsmap, path) : (text: string) => text
}

function refuseUnknown({ unk_id, vocab }: TokenizerJson['model'], path: string) {
  if (unk_id < vocab.length) return
  throw invalidCheckpoint(`${path}: expected unk_id below ${vocab.length} but received ${unk_id}`)
}
