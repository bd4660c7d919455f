/**
 * The border to @huggingface/tokenizers: the little we use of it, typed here because its own
 * declarations do not resolve under TypeScript's `nodenext`.
 */
import { Tokenizer as PackageTokenizer } from '@huggingface/tokenizers'

export type Tokenizer = {
  /** The ids of `text`, without begin, end and padding. */
  readonly tokenIds: (text: string) => number[]
  readonly idOf: (token: string) => number | undefined
}

/** What tokenizer.json says, as far as encoding needs it. */
export type TokenizerSettings = {
  readonly added_tokens: readonly { readonly id: number; readonly content: string }[]
  readonly model: { readonly type: 'BPE' | 'Unigram' }
  readonly pre_tokenizer: { readonly type: string }
}

/** A tokenizer that applies `normalize` to the text between special tokens. */
export function createTokenizer(
  settings: TokenizerSettings,
  normalize: (text: string) => string,
): Tokenizer {
  const tokenizer: {
    normalizer: (text: string) => string
    encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] }
    token_to_id(token: string): number | undefined
  } = new PackageTokenizer(
    // With any normaliser the package looks for `normalized` special tokens after it has run.
    { ...settings, normalizer: { type: 'NFC' }, post_processor: null, decoder: null },
    {},
  )
  // The package only calls it.
  tokenizer.normalizer = normalize
  return {
    tokenIds: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
    idOf: (token) => tokenizer.token_to_id(token),
  }
}
