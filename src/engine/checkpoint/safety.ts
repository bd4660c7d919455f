/**
 * The safety checker's folder: `safety_checker/`, diffusers' StableDiffusionSafetyChecker
 * (published by CompVis), and `nsfw_classifier/`, a ViTForImageClassification with a label
 * "normal" (published by Falconsai). Each holds config.json, preprocessor_config.json and
 * model.safetensors. Opening reads headers and configs only.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { invalidCheckpoint } from '../../errors.js'
import type { Tensors } from '../../safetensors/read.js'
import type { ClassifierParams, ConceptParams, VisionParams } from '../flux/params.js'
import { createWeights } from '../runtime/weights/weights.js'
import type { Component } from './checkpoint.js'
import { openTensors, readJson } from './files.js'

/** How an image of any size becomes the S×S pixels of a network. */
export type ImageProcessorParams = {
  /** `crop`: the shorter side becomes `edge` and the middle is taken; `stretch`: both become S. */
  readonly fit: { readonly kind: 'crop'; readonly edge: number } | { readonly kind: 'stretch' }
  readonly filter: 'lanczos' | 'bilinear' | 'bicubic'
  readonly rescale: number
  /** By channel, after rescaling. */
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

export type VisionModel<Params extends VisionParams> = Component<Params> & {
  readonly processor: ImageProcessorParams
}

export type SafetyModel = {
  readonly concepts: VisionModel<ConceptParams>
  readonly classifier: VisionModel<ClassifierParams>
}

/** The label of images that may be shown. */
export const safeLabel = 'normal'

// Counts of the published checker; the file's own tensors decide.
const publishedConcepts = 17
const publishedSpecialCare = 3

/**
 * Opens the safety checker at `folder`.
 * Throws `checkpoint_invalid` with what is missing, damaged or of another model.
 */
export function openSafetyModel(folder: string): SafetyModel {
  const part = (name: string) => {
    const child = join(folder, name)
    if (existsSync(child)) return child
    throw invalidCheckpoint(
      `${folder}: expected the safety checker's folders safety_checker/ and nsfw_classifier/ ` +
        `there but ${name}/ is missing`,
    )
  }
  return {
    concepts: openConcepts(part('safety_checker')),
    classifier: openClassifier(part('nsfw_classifier')),
  }
}

function openConcepts(folder: string): VisionModel<ConceptParams> {
  const { projection_dim: projection, vision_config } = readConfig(folder, ConceptConfig)
  const tensors = withTowerPrefix(openVisionTensors(folder))
  const count = (name: string) => tensors.get(name)?.shape[0]
  const params: ConceptParams = {
    ...visionParams(folder, vision_config),
    projection,
    concepts: count('concept_embeds') ?? publishedConcepts,
    specialCare: count('special_care_embeds') ?? publishedSpecialCare,
  }
  const processor = cropProcessor(folder, params.imageSide)
  return { source: folder, params, weights: createWeights(folder, tensors), processor }
}

function openClassifier(folder: string): VisionModel<ClassifierParams> {
  const config = readConfig(folder, ClassifierConfig)
  const params = { ...visionParams(folder, config), labels: readLabels(folder, config.id2label) }
  const weights = createWeights(folder, openVisionTensors(folder))
  return { source: folder, params, weights, processor: stretchProcessor(folder, params.imageSide) }
}

const openVisionTensors = (folder: string) => openTensors(folder, 'model')

// transformers 5 saves the tower without the second prefix that published files have.
const withTowerPrefix = (tensors: Tensors): Tensors =>
  new Map(
    [...tensors].map(([name, slice]) => [
      name.replace(/^vision_model\.(?!vision_model\.)/, 'vision_model.vision_model.'),
      slice,
    ]),
  )

function readLabels(folder: string, id2label: Readonly<Record<string, string>>): string[] {
  const ids = Object.keys(id2label)
  const labels = ids.map((_, id) => id2label[id])
  if (labels.every((label) => label !== undefined) && labels.includes(safeLabel)) return labels
  throw invalidCheckpoint(
    `${folder}: expected id2label to number its labels from 0, one of them "${safeLabel}", but ` +
      `it is ${JSON.stringify(id2label)}`,
  )
}

const count = z.number().int().positive()

// transformers leaves out what has its default, so defaults are those of its classes.
const ClipVisionConfig = z.object({
  hidden_size: count.default(768),
  intermediate_size: count.default(3072),
  num_hidden_layers: count.default(12),
  num_attention_heads: count.default(12),
  image_size: count.default(224),
  patch_size: count.default(32),
  layer_norm_eps: z.number().positive().default(1e-5),
  hidden_act: z.literal('quick_gelu').default('quick_gelu'),
  num_channels: z.literal(3).default(3),
})

const ConceptConfig = z.object({
  model_type: z.literal('clip').default('clip'),
  projection_dim: count.default(512),
  vision_config: ClipVisionConfig,
})

const ClassifierConfig = ClipVisionConfig.extend({
  model_type: z.literal('vit'),
  patch_size: count.default(16),
  layer_norm_eps: z.number().positive().default(1e-12),
  hidden_act: z.literal('gelu').default('gelu'),
  qkv_bias: z.literal(true).default(true),
  id2label: z.record(z.string(), z.string()),
})

const readConfig = <T>(folder: string, schema: z.ZodType<T>) =>
  readJson(join(folder, 'config.json'), schema)

type VisionConfig = Omit<z.output<typeof ClipVisionConfig>, 'hidden_act'>

function visionParams(folder: string, config: VisionConfig): VisionParams {
  const { hidden_size: hidden, num_attention_heads: heads } = config
  if (hidden % heads !== 0)
    throw invalidCheckpoint(
      `${folder}: expected heads of equal size but the config has ${heads} in a width of ${hidden}`,
    )
  return {
    imageSide: config.image_size,
    patchSide: config.patch_size,
    hidden,
    layers: config.num_hidden_layers,
    heads,
    mlpHidden: config.intermediate_size,
    epsilon: config.layer_norm_eps,
  }
}

/** Pillow's numbers of its filters; processors of photographs use no others. */
const filters = { 1: 'lanczos', 2: 'bilinear', 3: 'bicubic' } as const
const resample = z.literal([1, 2, 3])
const perChannel = (value: z.ZodNumber) => z.tuple([value, value, value])
const mean = perChannel(z.number())
const std = perChannel(z.number().positive())
const on = z.literal(true).default(true)

const Processor = z.object({
  do_resize: on,
  do_rescale: on,
  do_normalize: on,
  rescale_factor: z
    .number()
    .positive()
    .default(1 / 255),
})

/** A side, as files before transformers 4.26 have it, or a square. */
const Square = z.union([
  count,
  z
    .object({ height: count, width: count })
    .refine(({ height, width }) => height === width, 'expected a square')
    .transform(({ height }) => height),
])

const CropProcessor = Processor.extend({
  do_center_crop: on,
  size: z
    .union([count, z.object({ shortest_edge: count }).transform((size) => size.shortest_edge)])
    .default(224),
  crop_size: Square.default(224),
  resample: resample.default(3),
  image_mean: mean.default([0.48145466, 0.4578275, 0.40821073]),
  image_std: std.default([0.26862954, 0.26130258, 0.27577711]),
})

const StretchProcessor = Processor.extend({
  do_center_crop: z.literal(false).default(false),
  size: Square.default(224),
  resample: resample.default(2),
  image_mean: mean.default([0.5, 0.5, 0.5]),
  image_std: std.default([0.5, 0.5, 0.5]),
})

function cropProcessor(folder: string, imageSide: number): ImageProcessorParams {
  const config = readProcessor(folder, CropProcessor)
  checkSide(folder, config.crop_size, imageSide)
  if (config.size < imageSide)
    throw invalidCheckpoint(
      `${folder}: expected the processor to resize to at least its crop of ${imageSide} but it ` +
        `resizes to ${config.size}`,
    )
  return { ...processorParams(config), fit: { kind: 'crop', edge: config.size } }
}

function stretchProcessor(folder: string, imageSide: number): ImageProcessorParams {
  const config = readProcessor(folder, StretchProcessor)
  checkSide(folder, config.size, imageSide)
  return { ...processorParams(config), fit: { kind: 'stretch' } }
}

const readProcessor = <T>(folder: string, schema: z.ZodType<T>) =>
  readJson(join(folder, 'preprocessor_config.json'), schema)

function checkSide(folder: string, given: number, wanted: number) {
  if (given !== wanted)
    throw invalidCheckpoint(
      `${folder}: the network reads images of side ${wanted} but preprocessor_config.json makes ` +
        `them ${given}`,
    )
}

const processorParams = (
  config: z.output<typeof CropProcessor> | z.output<typeof StretchProcessor>,
) => ({
  filter: filters[config.resample],
  rescale: config.rescale_factor,
  mean: config.image_mean,
  std: config.image_std,
})
