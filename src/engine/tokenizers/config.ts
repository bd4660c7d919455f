/**
 * What transformers writes for a vocabulary: tokenizer_config.json and, in older versions, the
 * special tokens once more in special_tokens_map.json. A token is its text or an object with
 * `content`.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import { readJson } from './files.js'

const TokenText = z
  .union([z.string(), z.object({ content: z.string() })])
  .transform((token) => (typeof token === 'string' ? token : token.content))

const SpecialTokens = z.object({
  bos_token: TokenText.nullish(),
  eos_token: TokenText.nullish(),
  pad_token: TokenText.nullish(),
  unk_token: TokenText.nullish(),
})

const TokenizerConfig = SpecialTokens.extend({ model_max_length: z.number().positive().nullish() })

export type SpecialTokenName = keyof z.output<typeof SpecialTokens>

export type TokenizerConfig = {
  /** The text of a special token; throws `checkpoint_invalid` where neither file names it. */
  readonly specialToken: (name: SpecialTokenName) => string
  /** In tokens; absent, or astronomically large, where no limit was written. */
  readonly modelMaxLength: number | undefined
}

/** The settings of the tokenizer in `folder`; throws `checkpoint_invalid` naming the file. */
export function readTokenizerConfig(folder: string): TokenizerConfig {
  const path = join(folder, 'tokenizer_config.json')
  const config = readJson(path, TokenizerConfig)
  const mapPath = join(folder, 'special_tokens_map.json')
  const map = existsSync(mapPath) ? readJson(mapPath, SpecialTokens) : {}
  return {
    modelMaxLength: config.model_max_length ?? undefined,
    specialToken: (name) => {
      const token = config[name] ?? map[name]
      if (token === undefined || token === null)
        throw invalidCheckpoint(`${path}: expected a ${name}, here or in special_tokens_map.json`)
      return token
    },
  }
}
