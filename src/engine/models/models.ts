/** A variant's networks: its LoRAs, text encoders, transformers and autoencoder. */
import { tmpdir } from 'node:os'
import { invalidCheckpoint } from '../../errors.js'
import type { LoraFile, Precision, Variant } from '../../plan/plan.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import type { SchedulerParams } from '../flux/params.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import { emptyLoraSet, type LoraSet } from './loraSet.js'
import {
  type AcquireOptions,
  createModelMemory,
  type Lease,
  type ManagedModel,
  type ModelMemory,
} from './memory.js'
import { createMemoryBudget, type Resident } from './memoryBudget.js'
import type { Shapes } from './memoryEstimate.js'
import {
  createLoraLoader,
  manageAutoencoder,
  manageTextEncoders,
  manageTransformers,
  maxTextTokens,
} from './networks.js'
import type { PromptEmbedding, Transformer } from './transformer.js'
import type { Decoder, Decoding, Encoder } from './vae.js'

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
