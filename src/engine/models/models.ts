/** A variant's networks: its LoRAs, text encoders, transformers and autoencoder. */
import { tmpdir, totalmem } from 'node:os'
import { createTurns } from '../../async/mutex.js'
import { invalidCheckpoint } from '../../errors.js'
import type { LoraFile, PixelSize, Precision, Variant } from '../../plan/plan.js'
import { elementCount } from '../../safetensors/tensor.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import type { SchedulerParams } from '../flux/params.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { SessionOptions } from '../runtime/backends/ort/session.js'
import type { Weights } from '../runtime/weights/weights.js'
import { emptyLoraSet, type LoraSet, type MergeSettings, parseLoras } from './loraSet.js'
import { createLoraSetCache } from './loraSetCache.js'
import { createLoraSwitcher, type LoraSwitcher } from './loraSwitcher.js'
import {
  type AcquireOptions,
  createModelMemory,
  type Lease,
  type ManagedModel,
  type ModelMemory,
} from './memory.js'
import { createMemoryBudget, type Resident } from './memoryBudget.js'
import { autoencoderBytes, type Shapes } from './memoryEstimate.js'
import {
  buildClipGraph,
  buildT5Graph,
  createPromptEncoder,
  loadClip,
  loadT5,
} from './textEncoders.js'
import type { Transformer } from './transformer.js'
import { buildTransformerGraphs, loadTransformer, type PromptEmbedding } from './transformer.js'
import {
  buildAutoencoderGraphs,
  type Decoder,
  type Decoding,
  type Encoder,
  loadDecoder,
  loadEncoder,
} from './vae.js'

export type Models = {
  readonly variant: Variant
  readonly scheduler: SchedulerParams
  /**
   * The LoRAs, read and checked, each at its scale; those of scale 0 count as absent. Throws
   * `lora_invalid` when a file is no LoRA or is made for another model.
   */
  readonly loadLoras: (
    precision: Precision,
    loras: readonly LoraFile[],
    signal?: AbortSignal,
  ) => Promise<LoraSet>
  /**
   * Reads the LoRAs and uploads their factors ahead of `loadLoras` and `acquireTransformer`, also
   * while others run. Does nothing where LoRAs are not merged in place or the transformer is not
   * loaded. Never rejects: `loadLoras` throws the error when the set is needed.
   */
  readonly prefetch: (precision: Precision, loras: readonly LoraFile[]) => Promise<void>
  /** Takes the text encoders' memory for the call only. */
  readonly encodePrompt: (
    prompt: string,
    set: LoraSet,
    signal?: AbortSignal,
  ) => Promise<PromptEmbedding>
  /** The transformer with the set's LoRAs, in memory until the lease is released. */
  readonly acquireTransformer: (
    precision: Precision,
    set: LoraSet,
    options?: AcquireOptions,
  ) => Promise<Lease<Transformer>>
  /** Takes the encoder's memory for the call only: most predictions have no image. */
  readonly encodeImage: Encoder['encode']
  readonly decoder: ManagedModel<Decoder>
  /** The transformers without LoRAs. */
  readonly transformers: Readonly<Record<Precision, Resident>>
  /** For the estimate of what a run takes in addition to the weights. */
  readonly shapes: Shapes
  /** Seconds spent inside ONNX Runtime so far, by all models of the memory. */
  readonly busySeconds: () => number
  /** Unloads all networks. */
  readonly release: () => Promise<void>
}

export type ModelSettings = {
  /** Of an operator; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /** The folder for large sets of merged LoRAs. */
  readonly scratch?: string | undefined
  /** A set of merged LoRAs that is larger goes to a file in `scratch`. */
  readonly maxMergedBytes?: number
  readonly backend?: Backend
  /** Where the networks are loaded, which variants may share; without a limit by default. */
  readonly memory?: ModelMemory
  /** What images are decoded in, until one leaves its range; float32 by default. */
  readonly decoding?: Decoding
  /** Gets a sentence when LoRAs could not be prefetched. */
  readonly onWarning?: (message: string) => void
}

// T5 tokens: dev 512, schnell 256 (replicate-contract.md §1.3).
export const maxTextTokens = { dev: 512, schnell: 256 } as const

// A network's widened weights may fill this share of the machine; beyond it they stay mapped.
const widenedShare = 0.25

// Half of what a model's bytes can hold, which hold the graphs and their constants, too.
const mergedBytesInMemory = 2 ** 30

/**
 * Opens the checkpoint at `path` and loads its networks, as far as they fit into memory together.
 * Throws `checkpoint_invalid` when it is damaged or not a checkpoint of `variant`, and
 * `not_supported` when there is too little memory for an image.
 */
export async function loadModels(
  variant: Variant,
  path: string,
  settings: ModelSettings,
): Promise<Models> {
  const checkpoint = openCheckpoint(path)
  checkVariant(checkpoint, variant)
  checkWidths(checkpoint)
  const models = createModels(variant, checkpoint, settings)
  try {
    await models.warmUp()
  } catch (error) {
    await models.release()
    throw error
  }
  return models
}

type Context = {
  readonly variant: Variant
  readonly checkpoint: Checkpoint
  readonly backend: Backend
  readonly memory: ModelMemory
  readonly mergeSettings: MergeSettings
}

/** All graphs are built once, before anything is loaded: that checks the checkpoint as a whole. */
function createModels(
  variant: Variant,
  checkpoint: Checkpoint,
  {
    threads,
    scratch = tmpdir(),
    maxMergedBytes = mergedBytesInMemory,
    backend = portableBackend,
    memory = createModelMemory(createMemoryBudget(Number.POSITIVE_INFINITY)),
    decoding = { dtype: 'F32' },
    onWarning = () => {},
  }: ModelSettings,
): Models & { readonly warmUp: () => Promise<void> } {
  const changesInPlace = backend.createAdaptable !== undefined
  const mergeSettings = { threads, scratch, maxBytesInMemory: maxMergedBytes, changesInPlace }
  const context = { variant, checkpoint, backend, memory, mergeSettings }
  const { prompts, t5 } = manageTextEncoders(context)
  const vae = manageAutoencoder(context, decoding)
  const switcher = manageTransformers(context)
  const loras = createLoraLoader(context, switcher, onWarning)
  return {
    variant,
    scheduler: checkpoint.scheduler,
    loadLoras: loras.load,
    prefetch: loras.prefetch,
    encodePrompt: prompts.encode,
    acquireTransformer: switcher.acquire,
    encodeImage: vae.encodeImage,
    decoder: vae.decoder,
    transformers: switcher.bases,
    shapes: {
      transformer: checkpoint.transformer.params,
      autoencoder: checkpoint.autoencoder.params,
      textTokens: maxTextTokens[variant],
    },
    busySeconds: memory.busySeconds,
    /** Loads what the first prediction most likely needs; throws where no image could be made. */
    async warmUp() {
      const release = await memory.acquire([t5])
      release()
      const options = { alongside: [vae.decoder] }
      const transformer = await switcher.acquire('bf16', emptyLoraSet, options)
      transformer.release()
    },
    release: () =>
      loras.release(async () => {
        await switcher.release()
        await prompts.release()
        await vae.release()
      }),
  }
}

const sessionOptions = ({ mergeSettings }: Context, weights: readonly Weights[]) =>
  ({
    threads: mergeSettings.threads,
    widenWeights: widenedBytes(weights) < totalmem() * widenedShare ? 'load' : 'run',
  }) satisfies SessionOptions

function manageTextEncoders(context: Context) {
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

function manageTransformers(context: Context): LoraSwitcher {
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

function manageAutoencoder(context: Context, decoding: Decoding) {
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
function createLoraLoader(
  { variant, checkpoint, mergeSettings }: Context,
  switcher: LoraSwitcher,
  onWarning: (message: string) => void,
) {
  const targets = { transformer: checkpoint.transformer, clip: checkpoint.text.clip }
  const cache = createLoraSetCache((precision, files) =>
    parseLoras(targets, precision, files, mergeSettings),
  )
  const inTurn = createTurns()

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

function checkVariant({ path, transformer }: Checkpoint, variant: Variant) {
  const found: Variant = transformer.params.guidance ? 'dev' : 'schnell'
  if (found !== variant)
    throw invalidCheckpoint(
      `${path}: expected a Flux.1 ${variant} checkpoint but it is ${found} ` +
        `(${found === 'dev' ? 'it has' : 'it lacks'} a guidance embedder)`,
    )
}

function checkWidths({ path, transformer, autoencoder, text }: Checkpoint) {
  const { txtDim, vecDim, inChannels } = transformer.params
  const widths = [
    ['T5 hidden states', text.t5.params.hidden, txtDim],
    ['CLIP pooled vectors', text.clip.params.hidden, vecDim],
    ['2×2 patches of latents', 4 * autoencoder.params.latentChannels, inChannels],
  ] as const
  for (const [what, given, wanted] of widths)
    if (given !== wanted)
      throw invalidCheckpoint(
        `${path}: the transformer expects ${what} of width ${wanted} but they are ${given} wide`,
      )
}
