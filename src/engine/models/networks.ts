/** The networks of a checkpoint as managed models: their sizes, and how each is loaded. */
import { totalmem } from 'node:os'
import { createMutex } from '../../async/mutex.js'
import type { LoraFile, PixelSize, Precision, Variant } from '../../plan/plan.js'
import { elementCount } from '../../safetensors/tensor.js'
import type { Checkpoint } from '../checkpoint/checkpoint.js'
import type { Backend } from '../runtime/backends/backend.js'
import type { SessionOptions } from '../runtime/backends/ort/session.js'
import type { Weights } from '../runtime/weights/weights.js'
import { type MergeSettings, parseLoras } from './loraSet.js'
import { createLoraSetCache } from './loraSetCache.js'
import { createLoraSwitcher, type LoraSwitcher } from './loraSwitcher.js'
import type { ModelMemory } from './memory.js'
import { autoencoderBytes } from './memoryEstimate.js'
import {
  buildClipGraph,
  buildT5Graph,
  createPromptEncoder,
  loadClip,
  loadT5,
} from './textEncoders.js'
import { buildTransformerGraphs, loadTransformer } from './transformer.js'
import { buildAutoencoderGraphs, type Decoding, loadDecoder, loadEncoder } from './vae.js'

// T5 tokens: dev 512, schnell 256 (C-1.3).
export const maxTextTokens = { dev: 512, schnell: 256 } as const

// A network's widened weights may fill this share of the machine; beyond it they stay mapped.
const widenedShare = 0.25

/** What the networks of a variant are made from. */
export type NetworkContext = {
  readonly variant: Variant
  readonly checkpoint: Checkpoint
  readonly backend: Backend
  readonly memory: ModelMemory
  readonly mergeSettings: MergeSettings
}

const sessionOptions = ({ mergeSettings }: NetworkContext, weights: readonly Weights[]) =>
  ({
    threads: mergeSettings.threads,
    widenWeights: widenedBytes(weights) < totalmem() * widenedShare ? 'load' : 'run',
  }) satisfies SessionOptions

export function manageTextEncoders(context: NetworkContext) {
  const { variant, checkpoint, backend, memory, mergeSettings } = context
  const { text } = checkpoint
  const options = sessionOptions(context, [text.clip.weights, text.t5.weights])
  const t5 = memory.manage({
    name: `${variant} T5`,
    bytes: backend.weightBytes([buildT5Graph(text.t5, backend)], options),
    load: () => loadT5(text, maxTextTokens[variant], options, backend),
  })
  const clip = {
    component: text.clip,
    bytes: backend.weightBytes([buildClipGraph(text.clip, backend)], options),
    load: (component: typeof text.clip) => loadClip({ ...text, clip: component }, options, backend),
  }
  const promptOptions = { name: variant, clip, t5, settings: mergeSettings }
  return { prompts: createPromptEncoder(promptOptions, memory), t5 }
}

export function manageTransformers(context: NetworkContext): LoraSwitcher {
  const { variant, checkpoint, backend, memory, mergeSettings } = context
  const component = checkpoint.transformer
  const options = sessionOptions(context, [component.weights])
  function bytesOf(precision: Precision) {
    const graphs = buildTransformerGraphs(component, precision, backend)
    return backend.weightBytes(Object.values(graphs), options)
  }
  return createLoraSwitcher(
    {
      name: variant,
      component,
      bytes: { bf16: bytesOf('bf16'), fp8: bytesOf('fp8') },
      load: (own, precision, use) => loadTransformer(own, options, precision, backend, use),
      settings: mergeSettings,
    },
    memory,
  )
}

export function manageAutoencoder(context: NetworkContext, decoding: Decoding) {
  const { variant, backend, memory, checkpoint } = context
  const { autoencoder } = checkpoint
  const options = sessionOptions(context, [autoencoder.weights])
  const graphs = buildAutoencoderGraphs(autoencoder)
  // Kept here: a decoder that is unloaded and loaded again must not overflow a second time.
  let { dtype } = decoding
  function onOverflow() {
    dtype = 'F32'
    decoding.onOverflow?.()
  }
  const decoder = memory.manage({
    name: `${variant} VAE`,
    bytes: backend.weightBytes([graphs.decoder], options),
    load: () => loadDecoder(autoencoder, options, backend, { dtype, onOverflow }),
  })
  const encoder = memory.manage({
    name: `${variant} VAE encoder`,
    bytes: backend.weightBytes([graphs.encoder], options),
    load: () => loadEncoder(autoencoder, options, backend),
  })
  async function encodeImage(image: Float32Array, size: PixelSize, signal?: AbortSignal) {
    const release = await memory.acquire([encoder], autoencoderBytes(autoencoder.params, size))
    return encoder.network().encode(image, size, signal).finally(release)
  }
  return { decoder, encodeImage, release: () => memory.unload([decoder, encoder]) }
}

/** `load`, `prefetch` and `release` wait for each other. */
export function createLoraLoader(
  { variant, checkpoint, mergeSettings }: NetworkContext,
  switcher: LoraSwitcher,
  onWarning: (message: string) => void,
) {
  const targets = { transformer: checkpoint.transformer, clip: checkpoint.text.clip }
  const cache = createLoraSetCache((precision, files) =>
    parseLoras(targets, precision, files, mergeSettings),
  )
  const inTurn = createMutex()

  async function prefetch(precision: Precision, loras: readonly LoraFile[]) {
    if (!switcher.canStage(precision)) return
    try {
      await switcher.stage(precision, await cache.prefetch(precision, loras))
    } catch (error) {
      onWarning(`LoRAs for the next prediction of ${variant} could not be prefetched: ${error}`)
    }
  }

  return {
    load: (precision: Precision, loras: readonly LoraFile[], signal?: AbortSignal) =>
      inTurn(async () => {
        signal?.throwIfAborted()
        return cache.load(precision, loras)
      }),
    prefetch: (precision: Precision, loras: readonly LoraFile[]) =>
      inTurn(() => prefetch(precision, loras)),
    release: (unloadNetworks: () => Promise<void>) =>
      inTurn(async () => {
        await unloadNetworks()
        await cache.release()
      }),
  }
}

const widenedBytes = (weights: readonly Weights[]) =>
  weights
    .flatMap((each) => each.all())
    .reduce((sum, slice) => sum + 4 * elementCount(slice.shape), 0)
