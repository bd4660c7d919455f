/** The facts of a checkpoint that measurements need. */
import { statSync } from 'node:fs'
import { openCheckpoint } from '../engine/checkpoint/checkpoint.js'
import type { FluxParams } from '../engine/flux/params.js'
import { maxTextTokens } from '../engine/models/networks.js'
import { loadT5Tokenizer } from '../engine/tokenizers/t5.js'
import type { Variant } from '../plan/plan.js'

export type BenchModel = {
  readonly variant: Variant
  readonly params: FluxParams
  readonly textTokens: number
  /** Of all weights. */
  readonly files: readonly string[]
  readonly bytes: number
}

/** Reads headers and configs only; throws `checkpoint_invalid`. */
export function inspectModel(variant: Variant, path: string): BenchModel {
  const { transformer, autoencoder, text } = openCheckpoint(path)
  const weights = [transformer, autoencoder, text.clip, text.t5].flatMap((part) =>
    part.weights.all(),
  )
  const files = [...new Set(weights.map(({ file }) => file))]
  return {
    variant,
    params: transformer.params,
    textTokens: Math.min(maxTextTokens[variant], loadT5Tokenizer(text.t5Tokenizer).modelMaxLength),
    files,
    bytes: files.reduce((sum, file) => sum + statSync(file).size, 0),
  }
}
