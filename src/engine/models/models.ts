/** A variant's networks, loaded and ready to run. */
import { tmpdir, totalmem } from 'node:os'
import { invalidCheckpoint } from '../../errors.js'
import type { Precision, Variant } from '../../plan/plan.js'
import { elementCount } from '../../safetensors/tensor.js'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.js'
import type { SchedulerParams } from '../flux/params.js'
import { type Backend, portableBackend } from '../runtime/backends/backend.js'
import type { SessionOptions } from '../runtime/backends/ort/session.js'
import type { Weights } from '../runtime/weights/weights.js'
import { type Adapters, createAdapters } from './loraSwitcher.js'
import { createRoom, type Part, type Room } from './memory.js'
import { createBudget, type Resident } from './memoryBudget.js'
import { autoencoderBytes, type Shapes } from './memoryEstimate.js'
import { buildClipGraph, buildT5Graph, encodeOnDemand, loadClip, loadT5 } from './textEncoders.js'
import { buildTransformerGraphs, loadTransformer } from './transformer.js'
import { buildAutoencoderGraphs, type Decoder, type Decoding, loadDecoder } from './vaeDecoder.js'
import { type Encoder, loadEncoder } from './vaeEncoder.js'

export type Models = {
  readonly variant: Variant
  readonly scheduler: SchedulerParams
  /** Transformer and text encoders, with LoRAs or without. */
  readonly adapters: Adapters
  readonly decoder: Part<Decoder>
  /** The transformers without LoRAs. */
  readonly transformers: Readonly<Record<Precision, Resident>>
  /** The encoder comes when it is first asked for: most predictions have no image. */
  readonly encode: Encoder['encode']
  /** They tell what drawing a picture takes beside the weights. */
  readonly shapes: Shapes
  /** Seconds spent inside ONNX Runtime so far, by all models of the room. */
  readonly busySeconds: () => number
  /** Gives all memory back. */
  readonly release: () => Promise<void>
}

export type ModelSettings = {
  /** Of an operator; 0 lets ONNX Runtime decide. */
  readonly threads: number
  /** The folder for large sets of merged LoRAs. */
  readonly scratch?: string | undefined
  readonly backend?: Backend
  /** Where the networks live, which may be others' too; by default without a limit. */
  readonly room?: Room
  /** What pictures are decoded in, until one has left its range; float32 by default. */
  readonly decoding?: Decoding
}

// T5 tokens: dev 512, schnell 256 (C-1.3).
export const maxTextTokens = { dev: 512, schnell: 256 } as const

// A network's widened weights may fill this share of the machine; beyond it they stay mapped.
const widenedShare = 0.25

// Half of what a model's bytes can hold; the graphs and their constants need room too.
const maxMergedBytes = 2 ** 30

/**
 * Opens the checkpoint at `path` and loads its networks, as far as they have room together.
 * Throws `checkpoint_invalid` when it is damaged or not a checkpoint of `variant`, and
 * `not_supported` when there is too little memory for a picture.
 */
export async function loadModels(
  variant: Variant,
  path: string,
  {
    threads,
    scratch = tmpdir(),
    backend = portableBackend,
    room = createRoom(createBudget(Number.POSITIVE_INFINITY)),
    decoding = { dtype: 'F32' },
  }: ModelSettings,
): Promise<Models> {
  const checkpoint = openCheckpoint(path)
  checkVariant(checkpoint, variant)
  checkWidths(checkpoint)
  const { transformer, autoencoder, text, scheduler } = checkpoint
  const options = (weights: readonly Weights[]): SessionOptions => ({
    threads,
    widenWeights: widenedBytes(weights) < totalmem() * widenedShare ? 'load' : 'run',
  })
  const ofText = options([text.clip.weights, text.t5.weights])
  const ofTransformer = options([transformer.weights])
  const ofAutoencoder = options([autoencoder.weights])
  // All graphs are built once before anything is loaded: that checks the checkpoint as a whole.
  const bytesOf = (precision: Precision) =>
    backend.weightBytes(
      Object.values(buildTransformerGraphs(transformer, precision, backend)),
      ofTransformer,
    )
  const pixelGraphs = buildAutoencoderGraphs(autoencoder)
  // The decoder may go and come again, and is not to fail a second time.
  let { dtype } = decoding
  const onOverflow = () => {
    dtype = 'F32'
    decoding.onOverflow?.()
  }

  const t5 = room.part({
    name: `${variant} T5`,
    bytes: backend.weightBytes([buildT5Graph(text.t5, backend)], ofText),
    load: () => loadT5(text, maxTextTokens[variant], ofText, backend),
  })
  const decoder = room.part({
    name: `${variant} VAE`,
    bytes: backend.weightBytes([pixelGraphs.decoder], ofAutoencoder),
    load: () => loadDecoder(autoencoder, ofAutoencoder, backend, { dtype, onOverflow }),
  })
  const encoder = room.part({
    name: `${variant} VAE encoder`,
    bytes: backend.weightBytes([pixelGraphs.encoder], ofAutoencoder),
    load: () => loadEncoder(autoencoder, ofAutoencoder, backend),
  })
  const adapters = createAdapters(
    { transformer, clip: text.clip },
    {
      name: variant,
      transformerBytes: { bf16: bytesOf('bf16'), fp8: bytesOf('fp8') },
      loadTransformer: (component, precision, use) =>
        loadTransformer(component, ofTransformer, precision, backend, use),
      clipBytes: backend.weightBytes([buildClipGraph(text.clip, backend)], ofText),
      loadClip: (clip) => loadClip({ ...text, clip }, ofText, backend),
      t5: encodeOnDemand(t5, room),
      changesInPlace: backend.createAdaptable !== undefined,
    },
    { threads, scratch, maxBytesInMemory: maxMergedBytes },
    room,
  )
  const models: Models = {
    ...{ variant, scheduler, adapters, decoder, transformers: adapters.bases },
    async encode(image, size, signal) {
      const leave = await room.enter([encoder], autoencoderBytes(autoencoder.params, size))
      return encoder.network().encode(image, size, signal).finally(leave)
    },
    shapes: {
      ...{ transformer: transformer.params, autoencoder: autoencoder.params },
      textTokens: maxTextTokens[variant],
    },
    busySeconds: room.busySeconds,
    async release() {
      await adapters.release()
      await room.release([t5, decoder, encoder])
    },
  }
  await warm(models, [t5], room)
  return models
}

/** Loads what the first prediction is most likely to need; throws where nothing could be drawn. */
async function warm(
  { adapters, decoder, release }: Models,
  text: readonly Part[],
  room: Room,
): Promise<void> {
  try {
    const leave = await room.enter(text)
    leave()
    const adapted = await adapters.select('bf16', [])
    const entered = await adapted.enter({ others: [decoder] })
    entered.leave()
  } catch (error) {
    await release()
    throw error
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
      `${path}: expected a Flux.1 ${variant} checkpoint but it is ${found} (${found === 'dev' ? 'it has' : 'it lacks'} a guidance embedder)`,
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
