/** A variant's networks, loaded and ready to run. */
import { tmpdir, totalmem } from 'node:os'
import { type Checkpoint, type Component, openCheckpoint } from '../checkpoint/checkpoint.js'
import { invalidCheckpoint } from '../errors.js'
import type { FluxParams, SchedulerParams } from '../flux/params.js'
import type { Variant } from '../plan/plan.js'
import { type Backend, portableBackend } from '../runtime/backend.js'
import type { Session, SessionOptions } from '../runtime/session.js'
import { elementCount } from '../runtime/tensor.js'
import type { Weights } from '../runtime/weights.js'
import { type Adapters, createAdapters } from './adapters.js'
import { type Decoder, loadDecoder } from './decoder.js'
import { type Encoder, loadEncoder } from './encoder.js'
import { loadClip, loadT5 } from './prompt.js'
import { loadTransformer } from './transformer.js'

export type Models = {
  readonly variant: Variant
  readonly scheduler: SchedulerParams
  /** Transformer and text encoders, with LoRAs or without. */
  readonly adapters: Adapters
  readonly decoder: Decoder
  /** Loaded when it is first asked for: most predictions have no image. */
  readonly encoder: () => Promise<Encoder>
  /** Seconds spent inside ONNX Runtime so far. */
  readonly busySeconds: () => number
  /** Gives all memory back. */
  readonly release: () => Promise<void>
}

// T5 tokens: dev 512, schnell 256 (replicate-contract.md §1.3).
export const maxTextTokens = { dev: 512, schnell: 256 } as const

// Widened weights may fill this share of the machine; beyond it they stay mapped.
const widenedShare = 0.25

// Half of what a model's bytes can hold; the graphs and their constants need room too.
const maxMergedBytes = 2 ** 30

/**
 * Opens the checkpoint at `path` and loads its networks; large sets of merged LoRAs go through files
 * in the folder `scratch`.
 * Throws `checkpoint_invalid` when it is damaged or not a checkpoint of `variant`.
 */
export async function loadModels(
  variant: Variant,
  path: string,
  threads: number,
  scratch: string = tmpdir(),
  backend: Backend = portableBackend,
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
  const t5 = await loadT5(text, maxTextTokens[variant], ofText, backend)
  const adapters = await createAdapters(
    { transformer, clip: text.clip },
    {
      loadTransformer: (component, precision) =>
        loadTransformer(component, ofTransformer, precision, backend),
      loadClip: (clip) => loadClip({ ...text, clip }, ofText, backend),
      t5,
    },
    {
      ...{ threads, scratch, maxBytesInMemory: maxMergedBytes },
      keepsBases: !backend.copiesWeights && hasRoomFor(2, transformer),
    },
  )
  const decoder = await loadDecoder(autoencoder, options([autoencoder.weights]), backend)
  const sessions: Session[] = [...t5.sessions, ...decoder.sessions]
  let encoder: Promise<Encoder> | undefined
  const openEncoder = async () => {
    const opened = await loadEncoder(autoencoder, options([autoencoder.weights]), backend)
    sessions.push(...opened.sessions)
    return opened
  }
  return {
    variant,
    scheduler,
    adapters,
    decoder,
    encoder: () => (encoder ??= openEncoder()),
    busySeconds: () =>
      sessions.reduce((sum, session) => sum + session.busySeconds(), adapters.busySeconds()),
    async release() {
      await adapters.release()
      for (const session of sessions) await session.release()
    },
  }
}

/** Mapped weights take no memory of their own; a widened copy does. */
function hasRoomFor(copies: number, { weights }: Component<FluxParams>) {
  const bytes = widenedBytes([weights])
  const limit = totalmem() * widenedShare
  return bytes >= limit || copies * bytes < limit
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
