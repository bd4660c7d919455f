/** The text encoders: prompt → CLIP's pooled vector and T5's hidden states. */

import { type FloatTensor, intTensor } from '../../safetensors/tensor.js'
import type { TextSide } from '../checkpoint/checkpoint.js'
import { addClip } from '../flux/clip.js'
import { addT5, positionBuckets } from '../flux/t5.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { Session, SessionOptions } from '../runtime/backends/ort/session.js'
import { createGraph, type Graph } from '../runtime/onnx/graph.js'
import { refuseUnused } from '../runtime/weights/weights.js'
import { loadClipTokenizer } from '../tokenizers/clip.js'
import { loadT5Tokenizer } from '../tokenizers/t5.js'
import type { Part, Room } from './memory.js'
import type { PromptEmbedding } from './transformer.js'

export type PromptEncoder = {
  readonly encode: (prompt: string, options?: EncodeOptions) => Promise<PromptEmbedding>
}

export type EncodeOptions = {
  /** What T5 reads where it differs from what CLIP reads. */
  readonly t5Prompt?: string | undefined
  readonly signal?: AbortSignal | undefined
}

// Left in some files by other tools; no network uses them.
const clipLeftovers = /position_ids$|^text_projection|^logit_scale$/

/** CLIP's graph; throws when the checkpoint does not fit its params. */
export function buildClipGraph(
  { params, weights, source }: TextSide['clip'],
  backend: Backend = portableBackend,
): Graph {
  const graph = createGraph('clip')
  addClip(backend.ops(graph), params, weights)
  refuseUnused(source, weights, clipLeftovers)
  return graph
}

/** T5's graph; throws when the checkpoint does not fit its params. */
export function buildT5Graph(
  { params, weights, source }: TextSide['t5'],
  backend: Backend = portableBackend,
): Graph {
  const graph = createGraph('t5')
  addT5(backend.ops(graph), params, weights)
  refuseUnused(source, weights)
  return graph
}

/** One of the two encoders: a prompt as CLIP's pooled vector or as T5's hidden states. */
export type TextEncoder = {
  readonly encode: (prompt: string, signal?: AbortSignal) => Promise<FloatTensor>
  readonly sessions: readonly Session[]
}

/** Loads CLIP and its tokenizer. */
export async function loadClip(
  { clip, clipTokenizer }: Pick<TextSide, 'clip' | 'clipTokenizer'>,
  options: SessionOptions,
  backend: Backend = portableBackend,
): Promise<TextEncoder> {
  const tokenizer = loadClipTokenizer(clipTokenizer)
  const graph = buildClipGraph(clip, backend)
  const { session } = await backend.createSessions({ session: { graph } }, options)
  async function encode(prompt: string, signal?: AbortSignal): Promise<FloatTensor> {
    const ids = tokenizer.encode(prompt)
    const { pooled } = await session.run({ ids: intTensor(ids, [ids.length]) }, { signal })
    return pooled as FloatTensor
  }
  return { encode, sessions: [session] }
}

/**
 * Loads T5 and its tokenizer. It always sees `maxTokens` tokens, or fewer if its tokenizer's own
 * limit is lower.
 */
export async function loadT5(
  { t5, t5Tokenizer }: Pick<TextSide, 't5' | 't5Tokenizer'>,
  maxTokens: number,
  options: SessionOptions,
  backend: Backend = portableBackend,
): Promise<TextEncoder> {
  const tokenizer = loadT5Tokenizer(t5Tokenizer)
  const graph = buildT5Graph(t5, backend)
  const { session } = await backend.createSessions({ session: { graph } }, options)
  const tokens = Math.min(maxTokens, tokenizer.modelMaxLength)
  const buckets = intTensor(positionBuckets(t5.params, tokens), [tokens, tokens])
  async function encode(prompt: string, signal?: AbortSignal): Promise<FloatTensor> {
    const ids = tokenizer.encode(prompt, tokens)
    const { hidden } = await session.run({ ids: intTensor(ids, [tokens]), buckets }, { signal })
    return hidden as FloatTensor
  }
  return { encode, sessions: [session] }
}

/** An encoder that is loaded when a prompt comes that it has not seen. */
export const encodeOnDemand = (part: Part<TextEncoder>, room: Room): TextEncoder['encode'] =>
  remember(async (prompt, signal) => {
    const leave = await room.enter([part])
    return part.network().encode(prompt, signal).finally(leave)
  })

// T5's states for one prompt take 8 MB at full size.
const rememberedPrompts = 8

/** As `encode`; the prompts that were asked for last are not encoded again. */
export function remember(encode: TextEncoder['encode']): TextEncoder['encode'] {
  const known = new Map<string, FloatTensor>()
  return async (prompt, signal) => {
    const value = known.get(prompt) ?? (await encode(prompt, signal))
    known.delete(prompt)
    known.set(prompt, value)
    const [oldest] = known.keys()
    if (known.size > rememberedPrompts && oldest !== undefined) known.delete(oldest)
    return value
  }
}

export const createPromptEncoder = (
  clip: TextEncoder['encode'],
  t5: TextEncoder['encode'],
): PromptEncoder => ({
  encode: async (prompt, { t5Prompt = prompt, signal } = {}) => ({
    pooled: await clip(prompt, signal),
    hidden: await t5(t5Prompt, signal),
  }),
})
