/** The text encoders: prompt → CLIP's pooled vector and T5's hidden states. */
import type { TextSide } from '../checkpoint/checkpoint.js'
import { addClip } from '../flux/clip.js'
import { addT5, positionBuckets } from '../flux/t5.js'
import { createGraph, type Graph } from '../runtime/graph.js'
import { portableOps } from '../runtime/portable.js'
import { createSession, type Session, type SessionOptions } from '../runtime/session.js'
import { type FloatTensor, intTensor } from '../runtime/tensor.js'
import { refuseUnused } from '../runtime/weights.js'
import { loadClipTokenizer } from '../tokenizers/clip.js'
import { loadT5Tokenizer } from '../tokenizers/t5.js'
import type { PromptEmbedding } from './transformer.js'

export type PromptEncoder = {
  /** `t5Prompt` is what T5 reads where it differs from what CLIP reads. */
  readonly encode: (prompt: string, t5Prompt?: string) => Promise<PromptEmbedding>
  readonly sessions: readonly Session[]
}

// Left in some files by other tools; no network uses them.
const clipLeftovers = /position_ids$|^text_projection|^logit_scale$/

export function buildTextGraphs({ clip, t5 }: TextSide): { clip: Graph; t5: Graph } {
  const clipGraph = createGraph('clip')
  addClip(portableOps(clipGraph), clip.params, clip.weights)
  refuseUnused(clip.source, clip.weights, clipLeftovers)
  const t5Graph = createGraph('t5')
  addT5(portableOps(t5Graph), t5.params, t5.weights)
  refuseUnused(t5.source, t5.weights)
  return { clip: clipGraph, t5: t5Graph }
}

/**
 * Loads both encoders and their tokenizers. T5 always sees `maxTokens` tokens, or fewer if its
 * tokenizer's own limit is lower.
 */
export async function loadPromptEncoder(
  text: TextSide,
  maxTokens: number,
  options: SessionOptions,
): Promise<PromptEncoder> {
  const graphs = buildTextGraphs(text)
  const clipTokenizer = loadClipTokenizer(text.clipTokenizer)
  const t5Tokenizer = loadT5Tokenizer(text.t5Tokenizer)
  const clip = await createSession(graphs.clip.encode(), options)
  const t5 = await createSession(graphs.t5.encode(), options)
  const tokens = Math.min(maxTokens, t5Tokenizer.modelMaxLength)
  const buckets = intTensor(positionBuckets(text.t5.params, tokens), [tokens, tokens])

  return {
    async encode(prompt, t5Prompt = prompt) {
      const clipIds = clipTokenizer.encode(prompt)
      const t5Ids = t5Tokenizer.encode(t5Prompt, tokens)
      const { pooled } = await clip.run({ ids: intTensor(clipIds, [clipIds.length]) })
      const { hidden } = await t5.run({ ids: intTensor(t5Ids, [tokens]), buckets })
      return { pooled: pooled as FloatTensor, hidden: hidden as FloatTensor }
    },
    sessions: [clip, t5],
  }
}
