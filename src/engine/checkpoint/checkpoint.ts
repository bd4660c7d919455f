/**
 * A Flux.1 checkpoint on disk, in the layout it came in: a diffusers folder, or BFL's single file
 * with ae.safetensors (or vae/, or an autoencoder of its own) and the text encoders' folders next
 * to it. Opening reads headers and configs only.
 */
import { existsSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { invalidCheckpoint } from '../../errors.js'
import { openSafetensors, type Tensors } from '../../safetensors/read.js'
import type {
  AutoencoderParams,
  ClipParams,
  FluxParams,
  SchedulerParams,
  T5Params,
} from '../flux/params.js'
import { createWeights, type Weights } from '../runtime/weights/weights.js'
import { type BflOverrides, readBflTransformer, splitFinalModulation } from './bfl.js'
import { autoencoderParams, clipParams, fluxParams, schedulerParams, t5Params } from './configs.js'
import { openTensors } from './files.js'
import { describeForeign, describeInputChannels } from './foreign.js'
import { readLdmAutoencoder } from './ldm.js'
import { refuseQuantised } from './quantised.js'
import { attachScales } from './scales.js'
import { autoencoderPart, transformerPart } from './singleFile.js'

/** A network's shape and weights; `source` is the file or folder that messages name. */
export type Component<Params> = {
  readonly source: string
  readonly params: Params
  readonly weights: Weights
}

export type TextSide = {
  readonly clip: Component<ClipParams>
  readonly t5: Component<T5Params>
  /** Folders of the tokenizers. */
  readonly clipTokenizer: string
  readonly t5Tokenizer: string
}

export type Checkpoint = {
  readonly path: string
  readonly transformer: Component<FluxParams>
  readonly autoencoder: Component<AutoencoderParams>
  readonly text: TextSide
  readonly scheduler: SchedulerParams
}

// Flux.1's schedules, for layouts that carry no scheduler config.
const devScheduler: SchedulerParams = {
  useDynamicShifting: true,
  shift: 3,
  baseShift: 0.5,
  maxShift: 1.15,
  baseImageSeqLen: 256,
  maxImageSeqLen: 4096,
}
const schnellScheduler: SchedulerParams = { ...devScheduler, useDynamicShifting: false, shift: 1 }

/**
 * Opens the checkpoint at `path`, a folder or a single file.
 * Throws `checkpoint_invalid` with what is missing, damaged or of another model.
 */
export function openCheckpoint(path: string, overrides: BflOverrides = {}): Checkpoint {
  const absolute = resolve(path)
  const stats = statSync(absolute, { throwIfNoEntry: false })
  if (!stats)
    throw invalidCheckpoint(
      `${path}: expected a diffusers folder or a Flux.1 .safetensors file but nothing is there`,
    )
  return stats.isDirectory() ? openFolder(absolute) : openSingleFile(absolute, overrides)
}

function openFolder(path: string): Checkpoint {
  const folder = (name: string) => {
    const child = join(path, name)
    if (existsSync(child)) return child
    throw invalidCheckpoint(`${path}: expected a diffusers folder with ${name}/ in it`)
  }
  return {
    path,
    transformer: openTransformer(folder('transformer')),
    autoencoder: openAutoencoder(folder('vae')),
    text: openTextSide(path),
    scheduler: schedulerParams(folder('scheduler')),
  }
}

function component<Params>(source: string, params: Params, tensors: Tensors): Component<Params> {
  return { source, params, weights: createWeights(source, tensors) }
}

/** The transformer of a diffusers folder. */
export function openTransformer(folder: string): Component<FluxParams> {
  const params = fluxParams(folder)
  const tensors = openTensors(folder, 'diffusion_pytorch_model')
  refuseForeign(folder, tensors, 'transformer_blocks.')
  return component(folder, checkInput(folder, params), splitFinalModulation(tensors))
}

/** The autoencoder of a diffusers folder. */
export function openAutoencoder(folder: string): Component<AutoencoderParams> {
  const tensors = openTensors(folder, 'diffusion_pytorch_model')
  return component(folder, autoencoderParams(folder), tensors)
}

/** Both text encoders of a checkpoint folder. */
export function openTextSide(path: string): TextSide {
  const folder = (name: string) => {
    const child = join(path, name)
    if (existsSync(child)) return child
    throw invalidCheckpoint(
      `${path}: expected ${name}/ there; the text encoders and tokenizers are those of the ` +
        'Flux.1 repository',
    )
  }
  const clip = folder('text_encoder')
  const t5 = folder('text_encoder_2')
  return {
    clip: component(clip, clipParams(clip), withTextModelPrefix(openTensors(clip, 'model'))),
    t5: component(t5, t5Params(t5), withSharedEmbedding(openTensors(t5, 'model'))),
    clipTokenizer: folder('tokenizer'),
    t5Tokenizer: folder('tokenizer_2'),
  }
}

// transformers 5 may save CLIP without the prefix that published files have.
const withTextModelPrefix = (tensors: Tensors): Tensors =>
  new Map(
    [...tensors].map(([name, slice]) => [
      /^(embeddings|encoder|final_layer_norm)\./.test(name) ? `text_model.${name}` : name,
      slice,
    ]),
  )

// Some files name T5's embedding twice, some only by its second name.
function withSharedEmbedding(tensors: Tensors): Tensors {
  const renamed = new Map(tensors)
  const embedding = renamed.get('encoder.embed_tokens.weight')
  renamed.delete('encoder.embed_tokens.weight')
  if (embedding && !renamed.has('shared.weight')) renamed.set('shared.weight', embedding)
  return renamed
}

function openSingleFile(file: string, overrides: BflOverrides): Checkpoint {
  const folder = dirname(file)
  const transformer = openBflTransformer(file, overrides)
  return {
    path: file,
    transformer,
    autoencoder: openSiblingAutoencoder(folder, overrides) ?? openOwnAutoencoder(file, overrides),
    text: openTextSide(folder),
    scheduler: transformer.params.guidance ? devScheduler : schnellScheduler,
  }
}

/** The transformer of a BFL single file. */
export function openBflTransformer(
  file: string,
  overrides: BflOverrides = {},
): Component<FluxParams> {
  const stored = transformerPart(file, openSafetensors(file).tensors)
  refuseQuantised(file, stored)
  refuseForeign(file, stored, 'double_blocks.')
  const tensors = attachScales(file, stored)
  const bfl = readBflTransformer(file, tensors, overrides)
  return component(file, checkInput(file, bfl.params), bfl.tensors)
}

function openSiblingAutoencoder(folder: string, { groups }: BflOverrides) {
  const file = join(folder, 'ae.safetensors')
  if (existsSync(file)) return openLdmAutoencoder(file, groups)
  if (existsSync(join(folder, 'vae'))) return openAutoencoder(join(folder, 'vae'))
  return undefined
}

/** The autoencoder of an all-in-one file. */
function openOwnAutoencoder(file: string, { groups }: BflOverrides) {
  const part = autoencoderPart(openSafetensors(file).tensors)
  if (part) return ldmAutoencoder(file, part, groups)
  throw invalidCheckpoint(
    `${dirname(file)}: expected ae.safetensors or vae/ next to the transformer's file`,
  )
}

/** The autoencoder of BFL's ae.safetensors. */
export const openLdmAutoencoder = (file: string, groups?: number) =>
  ldmAutoencoder(file, openSafetensors(file).tensors, groups)

function ldmAutoencoder(
  file: string,
  tensors: Tensors,
  groups: number | undefined,
): Component<AutoencoderParams> {
  const ldm = readLdmAutoencoder(file, tensors, groups)
  return component(file, ldm.params, ldm.tensors)
}

function refuseForeign(source: string, tensors: Tensors, sign: string) {
  const names = [...tensors.keys()]
  if (!names.some((name) => name.startsWith(sign)))
    throw invalidCheckpoint(
      `${source}: expected a Flux.1 transformer (tensors named ${sign}…) but this is ` +
        `${describeForeign(names)}`,
    )
}

// Flux.1 dev and schnell see the latents and nothing else: 16 channels in 2×2 patches.
function checkInput(source: string, params: FluxParams): FluxParams {
  if (params.inChannels !== 64)
    throw invalidCheckpoint(
      `${source}: expected 64 input channels but it has ${params.inChannels}: ` +
        `${describeInputChannels(params.inChannels)}`,
    )
  return params
}
