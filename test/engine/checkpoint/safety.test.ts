/**
 * The published safety checker: its configs, tensor names and shapes. The files are headers over a
 * hole, so nothing is computed; test/engine/flux/vision.test.ts does that at small sizes.
 */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openSafetyModel } from '../../../src/engine/checkpoint/safety.js'
import { buildSafetyGraphs } from '../../../src/engine/models/safetyChecker.js'
import { type Shapes, temporaryFolder, writeRaw } from '../../weightFiles.js'

const linear = (name: string, out: number, inner: number): Shapes => ({
  [`${name}.weight`]: [out, inner],
  [`${name}.bias`]: [out],
})
const norm = (name: string, width: number): Shapes => ({
  [`${name}.weight`]: [width],
  [`${name}.bias`]: [width],
})
const repeat = (count: number, shapes: (index: number) => Shapes): Shapes =>
  Object.assign({}, ...Array.from({ length: count }, (_, index) => shapes(index)))

const tower = 'vision_model.vision_model'
const clipLayer = (name: string): Shapes => ({
  ...norm(`${name}.layer_norm1`, 1024),
  ...norm(`${name}.layer_norm2`, 1024),
  ...repeat(4, (i) => linear(`${name}.self_attn.${['q', 'k', 'v', 'out'][i]}_proj`, 1024, 1024)),
  ...linear(`${name}.mlp.fc1`, 4096, 1024),
  ...linear(`${name}.mlp.fc2`, 1024, 4096),
})
const conceptShapes: Shapes = {
  [`${tower}.embeddings.class_embedding`]: [1024],
  [`${tower}.embeddings.patch_embedding.weight`]: [1024, 3, 14, 14],
  [`${tower}.embeddings.position_embedding.weight`]: [257, 1024],
  [`${tower}.embeddings.position_ids`]: [1, 257],
  ...norm(`${tower}.pre_layrnorm`, 1024),
  ...repeat(24, (i) => clipLayer(`${tower}.encoder.layers.${i}`)),
  ...norm(`${tower}.post_layernorm`, 1024),
  'visual_projection.weight': [768, 1024],
  concept_embeds: [17, 768],
  concept_embeds_weights: [17],
  special_care_embeds: [3, 768],
  special_care_embeds_weights: [3],
}

const vitLayer = (name: string): Shapes => ({
  ...norm(`${name}.layernorm_before`, 768),
  ...norm(`${name}.layernorm_after`, 768),
  ...repeat(3, (i) =>
    linear(`${name}.attention.attention.${['query', 'key', 'value'][i]}`, 768, 768),
  ),
  ...linear(`${name}.attention.output.dense`, 768, 768),
  ...linear(`${name}.intermediate.dense`, 3072, 768),
  ...linear(`${name}.output.dense`, 768, 3072),
})
const classifierShapes: Shapes = {
  'vit.embeddings.cls_token': [1, 1, 768],
  'vit.embeddings.position_embeddings': [1, 197, 768],
  'vit.embeddings.patch_embeddings.projection.weight': [768, 3, 16, 16],
  'vit.embeddings.patch_embeddings.projection.bias': [768],
  ...repeat(12, (i) => vitLayer(`vit.encoder.layer.${i}`)),
  ...norm('vit.layernorm', 768),
  ...linear('classifier', 2, 768),
}

// transformers leaves out what is a default of its classes.
const conceptConfig = {
  architectures: ['StableDiffusionSafetyChecker'],
  model_type: 'clip',
  projection_dim: 768,
  vision_config: {
    hidden_size: 1024,
    intermediate_size: 4096,
    model_type: 'clip_vision_model',
    num_attention_heads: 16,
    num_hidden_layers: 24,
    patch_size: 14,
  },
}
const conceptProcessor = {
  crop_size: { height: 224, width: 224 },
  do_center_crop: true,
  do_rescale: true,
  image_processor_type: 'CLIPImageProcessor',
  resample: 3,
  size: { shortest_edge: 224 },
}
const classifierConfig = {
  architectures: ['ViTForImageClassification'],
  hidden_act: 'gelu',
  id2label: { 0: 'normal', 1: 'nsfw' },
  model_type: 'vit',
  qkv_bias: true,
}
const classifierProcessor = {
  image_processor_type: 'ViTImageProcessor',
  resample: 2,
  size: { height: 224, width: 224 },
}

/** A model's folder whose weights are a hole of the right length. */
function writeModel(folder: string, config: object, processor: object, shapes: Shapes) {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(processor))
  let end = 0
  const entries = Object.entries(shapes).map(([name, shape]) => {
    const dtype = name.endsWith('position_ids') ? 'I64' : 'F32'
    const begin = end
    end += shape.reduce((a, b) => a * b, 1) * (dtype === 'I64' ? 8 : 4)
    return [name, { dtype, shape, data_offsets: [begin, end] }]
  })
  const header = JSON.stringify(Object.fromEntries(entries))
  const path = writeRaw(join(folder, 'model.safetensors'), header, new Uint8Array())
  truncateSync(path, 8 + Buffer.byteLength(header) + end)
}

test('the published files are read by name and shape', () => {
  const folder = temporaryFolder()
  writeModel(join(folder, 'safety_checker'), conceptConfig, conceptProcessor, conceptShapes)
  writeModel(
    join(folder, 'nsfw_classifier'),
    classifierConfig,
    classifierProcessor,
    classifierShapes,
  )
  const model = openSafetyModel(folder)
  buildSafetyGraphs(model)
  expect(model.concepts.params).toEqual({
    imageSide: 224,
    patchSide: 14,
    hidden: 1024,
    layers: 24,
    heads: 16,
    mlpHidden: 4096,
    epsilon: 1e-5,
    projection: 768,
    concepts: 17,
    specialCare: 3,
  })
  expect(model.classifier.params).toEqual({
    imageSide: 224,
    patchSide: 16,
    hidden: 768,
    layers: 12,
    heads: 12,
    mlpHidden: 3072,
    epsilon: 1e-12,
    labels: ['normal', 'nsfw'],
  })
  expect(model.concepts.processor).toMatchObject({
    fit: { kind: 'crop', edge: 224 },
    filter: 'bicubic',
    mean: [0.48145466, 0.4578275, 0.40821073],
  })
  expect(model.classifier.processor).toMatchObject({
    fit: { kind: 'stretch' },
    filter: 'bilinear',
    std: [0.5, 0.5, 0.5],
  })
})
