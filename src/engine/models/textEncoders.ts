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
import { type LoraSet, type LoraTargets, type MergeSettings, mergeComponent } from './loraSet.js'
import type { ManagedModel, ModelMemory } from './memory.js'
import type { PromptEmbedding } from './transformer.js'

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

export type PromptEncoderOptions = {
  /** The variant: what the models' names begin with. */
  readonly name: string
  readonly clip: {
    readonly component: LoraTargets['clip']
    readonly bytes: number
    readonly load: (component: LoraTargets['clip']) => Promise<TextEncoder>
  }
  readonly t5: ManagedModel<TextEncoder>
  readonly settings: MergeSettings
}

export type PromptEncoder = {
  /** The prompt as the encoders of this set of LoRAs read it; each is in memory for its call. */
  readonly encode: (prompt: string, set: LoraSet, signal?: AbortSignal) => Promise<PromptEmbedding>
  /** Unloads both encoders. */
  readonly release: () => Promise<void>
}

/** Loads nothing. The embeddings of the prompts used last are kept. */
export function createPromptEncoder(
  { name, clip, t5, settings }: PromptEncoderOptions,
  memory: ModelMemory,
): PromptEncoder {
  const { component, bytes, load } = clip
  const base = memory.manage({ name: `${name} CLIP`, bytes, load: () => load(component) })
  const slot = `${base.name} with LoRAs`
  const pooledCache = createEmbeddingCache()
  const hiddenCache = createEmbeddingCache()

  function clipOf({ key, scales, parsed }: LoraSet): ManagedModel<TextEncoder> {
    const merger = parsed.clip
    if (!merger) return base
    return memory.manage({
      name: `${slot} ${key}`,
      bytes,
      slot,
      async load() {
        const merged = await mergeComponent(component, merger, scales, settings)
        return load(merged.component).finally(merged.release)
      },
    })
  }

  async function encodeWith(
    model: ManagedModel<TextEncoder>,
    prompt: string,
    signal?: AbortSignal,
  ): Promise<FloatTensor> {
    const release = await memory.acquire([model])
    return model.network().encode(prompt, signal).finally(release)
  }

  return {
    async encode(prompt, set, signal) {
      const own = clipOf(set)
      const pooled = await pooledCache(`${own.name}\n${prompt}`, () =>
        encodeWith(own, prompt, signal),
      )
      const hidden = await hiddenCache(prompt, () => encodeWith(t5, prompt, signal))
      return { hidden, pooled }
    },
    async release() {
      await memory.unloadSlot(slot)
      await memory.unload([base, t5])
    },
  }
}

// T5's states for one prompt take 8 MB at full size.
const cachedPrompts = 8

/** The embeddings asked for last, by key; `encode` makes one that is missing. */
export function createEmbeddingCache() {
  const known = new Map<string, FloatTensor>()
  return async (key: string, encode: () => Promise<FloatTensor>): Promise<FloatTensor> => {
    const value = known.get(key) ?? (await encode())
    known.delete(key)
    known.set(key, value)
    const [oldest] = known.keys()
    if (known.size > cachedPrompts && oldest !== undefined) known.delete(oldest)
    return value
  }
}
