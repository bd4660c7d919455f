/**
 * The values of F-9.1: outputs of the reference code on weights made by a formula, so they
 * need no file. The stated tolerance is 1e-4 (float32); the largest difference seen is 2e-5.
 */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readBflTransformer } from '../../../src/engine/checkpoint/bfl.js'
import { openLdmAutoencoder } from '../../../src/engine/checkpoint/checkpoint.js'
import { addClip } from '../../../src/engine/flux/clip.js'
import { addT5, positionBuckets } from '../../../src/engine/flux/t5.js'
import { openLora } from '../../../src/engine/lora/format/read.js'
import {
  buildTransformerGraphs,
  loadTransformer,
  type Transformer,
} from '../../../src/engine/models/transformer.js'
import { buildAutoencoderGraphs } from '../../../src/engine/models/vae.js'
import { denoise } from '../../../src/engine/pipeline/denoise.js'
import { ropeTables } from '../../../src/engine/pipeline/latents.js'
import { getSchedule, timestepEmbedding } from '../../../src/engine/pipeline/schedule.js'
import { createSession } from '../../../src/engine/runtime/backends/ort/session.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import { portableOps } from '../../../src/engine/runtime/ops/portable.js'
import { createWeights, withMerged } from '../../../src/engine/runtime/weights/weights.js'
import { openSafetensors } from '../../../src/safetensors/read.js'
import { floatTensor, intTensor } from '../../../src/safetensors/tensor.js'
import { expectClose } from '../../goldens.js'
import {
  hashed,
  hashedWeights,
  type Shapes,
  temporaryFolder,
  writeTensors,
} from '../../weightFiles.js'
import { mergeLoras } from '../lora/merging.js'
import { sourcesOf } from '../lora/tinyDev.js'

const options = { threads: 1, widenWeights: 'load' } as const
const folder = temporaryFolder()
const devShift = { baseShift: 0.5, maxShift: 1.15, baseImageSeqLen: 256, maxImageSeqLen: 4096 }

function hashedFile(name: string, shapes: Shapes, dropped: RegExp = /$^/) {
  const values = hashedWeights(shapes)
  const kept = Object.fromEntries(Object.entries(shapes).filter(([key]) => !dropped.test(key)))
  return writeTensors(join(folder, `${name}.safetensors`), kept, values)
}

const linear = (name: string, out: number, inner: number): Shapes => ({
  [`${name}.weight`]: [out, inner],
  [`${name}.bias`]: [out],
})

const mean = (values: ArrayLike<number>) =>
  Array.from(values).reduce((a, b) => a + b, 0) / values.length
/** Of a sample, as torch.std: over n − 1. */
const deviation = (values: ArrayLike<number>) => {
  const squares = mean(Array.from(values, (value) => (value - mean(values)) ** 2))
  return Math.sqrt((squares * values.length) / (values.length - 1))
}

function expectValues(got: Float32Array, first: readonly number[], last: readonly number[] = []) {
  expectClose(got.subarray(0, first.length), first, 1e-4)
  expectClose(got.subarray(got.length - last.length), last, 1e-4)
}

describe('F1, the transformer', () => {
  const [hidden, channels, vecDim, txtDim] = [32, 8, 12, 20]
  const double = (i: number): Shapes =>
    Object.assign(
      {},
      ...['img', 'txt'].map((stream) => ({
        ...linear(`double_blocks.${i}.${stream}_mod.lin`, 6 * hidden, hidden),
        ...linear(`double_blocks.${i}.${stream}_attn.qkv`, 3 * hidden, hidden),
        ...linear(`double_blocks.${i}.${stream}_attn.proj`, hidden, hidden),
        ...linear(`double_blocks.${i}.${stream}_mlp.0`, 4 * hidden, hidden),
        ...linear(`double_blocks.${i}.${stream}_mlp.2`, hidden, 4 * hidden),
        [`double_blocks.${i}.${stream}_attn.norm.query_norm.scale`]: [16],
        [`double_blocks.${i}.${stream}_attn.norm.key_norm.scale`]: [16],
      })),
    )
  const single = (i: number): Shapes => ({
    ...linear(`single_blocks.${i}.modulation.lin`, 3 * hidden, hidden),
    ...linear(`single_blocks.${i}.linear1`, 7 * hidden, hidden),
    ...linear(`single_blocks.${i}.linear2`, hidden, 5 * hidden),
    [`single_blocks.${i}.norm.query_norm.scale`]: [16],
    [`single_blocks.${i}.norm.key_norm.scale`]: [16],
  })
  const embedder = (name: string, size: number): Shapes => ({
    ...linear(`${name}.in_layer`, hidden, size),
    ...linear(`${name}.out_layer`, hidden, hidden),
  })
  const shapes: Shapes = {
    ...linear('img_in', hidden, channels),
    ...linear('txt_in', hidden, txtDim),
    ...embedder('time_in', 256),
    ...embedder('vector_in', vecDim),
    ...embedder('guidance_in', 256),
    ...double(0),
    ...double(1),
    ...single(0),
    ...single(1),
    ...linear('final_layer.adaLN_modulation.1', 2 * hidden, hidden),
    ...linear('final_layer.linear', channels, hidden),
  }

  async function transformer(dropped?: RegExp) {
    const file = hashedFile(dropped ? 'schnell' : 'dev', shapes, dropped)
    const source = openSafetensors(file).tensors
    const { params, tensors } = readBflTransformer(file, source, { axes: [4, 6, 6] })
    return loadTransformer({ source: file, params, weights: createWeights(file, tensors) }, options)
  }

  const img = hashed(1000, 12 * channels)
  const prompt = {
    hidden: floatTensor(hashed(1001, 5 * txtDim), [5, txtDim]),
    pooled: floatTensor(hashed(1002, vecDim), [1, vecDim]),
  }
  const tables = ropeTables(5, 3, 4, [4, 6, 6])
  const rope = { cos: floatTensor(tables.cos, [17, 8]), sin: floatTensor(tables.sin, [17, 8]) }
  const steps = async (transformer: Transformer, levels: readonly number[]) =>
    transformer.bindSteps(await transformer.condition(conditions(levels)), rope)
  const conditions = (levels: readonly number[]) => ({
    prompt,
    timesteps: levels.map((sigma) => timestepEmbedding(1000 * sigma)),
    guidance: timestepEmbedding(3500),
  })

  test('has 84 tensors', () => expect(Object.keys(shapes)).toHaveLength(84))

  test('predicts the published velocity', async () => {
    const dev = await transformer()
    const got = await (await steps(dev, [0.75])).predict(img, 0)
    expectValues(
      got,
      [-0.7557685, -1.0725161, -0.7774456, -1.2786778, 1.4589616, 0.8427275, -0.1418135, -0.348231],
      [0.79241, -0.29524, -0.9631],
    )
    expectClose([mean(got), deviation(got)], [-0.201006, 0.989121], 1e-4)
  })

  test('predicts the published velocity with a LoRA merged in', async () => {
    const file = hashedFile('dev', shapes)
    const source = openSafetensors(file).tensors
    const { params, tensors } = readBflTransformer(file, source, { axes: [4, 6, 6] })
    const targets = {
      'double_blocks.0.img_attn.qkv': 2000,
      'single_blocks.1.linear1': 2002,
      'final_layer.adaLN_modulation.1': 2004,
    }
    const values: Record<string, Float32Array> = {}
    const loraShapes: Record<string, readonly number[]> = {}
    for (const [name, id] of Object.entries(targets)) {
      const [out = 0, inner = 0] = shapes[`${name}.weight`]!
      loraShapes[`${name}.lora_A.weight`] = [4, inner]
      loraShapes[`${name}.lora_B.weight`] = [out, 4]
      loraShapes[`${name}.alpha`] = []
      values[`${name}.lora_A.weight`] = hashed(id, 4 * inner)
      values[`${name}.lora_B.weight`] = hashed(id + 1, out * 4)
      values[`${name}.alpha`] = Float32Array.of(2)
    }
    const path = writeTensors(join(folder, 'lora.safetensors'), loraShapes, (key) => values[key]!)
    const adapter = await openLora({ name: path, path }, { transformer: params }, 1)
    const weights = createWeights(file, tensors)
    const merged = await mergeLoras(weights.pristine, [{ adapter, scale: 0.8 }], {
      rounding: 'float32',
      threads: 1,
    })
    const dev = await loadTransformer(
      { source: file, params, weights: withMerged(weights, sourcesOf(merged)) },
      options,
    )
    const got = await (await steps(dev, [0.75])).predict(img, 0)
    expectValues(
      got,
      [-0.73854, 0.09292, 0.03436, 0.21789, 1.18913, -2.13232],
      [-0.13271, 0.8676, -1.73918],
    )
    expectClose([mean(got), deviation(got)], [0.16021, 1.054074], 1e-4)
  })

  test("changes block 0's residual between two levels by the published share", async () => {
    const file = hashedFile('dev', shapes)
    const source = openSafetensors(file).tensors
    const { params, tensors } = readBflTransformer(file, source, { axes: [4, 6, 6] })
    const component = { source: file, params, weights: createWeights(file, tensors) }
    const dev = await loadTransformer(component, options)
    const debugOutputs = buildTransformerGraphs(component).step.encode(['img_in', 'double0_img'])
    const step = await createSession(debugOutputs, options)
    const { txt, modulation } = await dev.condition(conditions([0.75, 0.7]))
    const residual = async (i: number) => {
      const feeds = {
        img: floatTensor(img, [12, channels]),
        txt,
        modulation: modulation[i]!,
        ...rope,
      }
      const { img_in, double0_img } = await step.run(feeds)
      return Array.from(double0_img!.data, (value, j) => value - img_in!.data[j]!)
    }
    const [before, after] = [await residual(0), await residual(1)]
    const change = mean(after.map((value, i) => Math.abs(value - before[i]!)))
    expectClose([change / mean(before.map(Math.abs))], [0.8902025], 1e-4)
  })

  test('denoises to the published latents in 4 steps', async () => {
    const dev = await transformer()
    const scheduler = { ...devShift, shift: 3, useDynamicShifting: true }
    const sigmas = getSchedule(scheduler, 4, 12)
    expectClose(sigmas, [1, 0.825967, 0.612705, 0.345266, 0], 1e-6)
    const { predict } = await steps(dev, sigmas.slice(0, -1))
    const got = await denoise(predict, img, sigmas)
    expectValues(
      got,
      [0.82585, 1.64772, 1.32393, 0.6497, -2.46717, 0.33823],
      [-0.59513, -0.77721, 0.37342],
    )
    expectClose([mean(got), deviation(got)], [0.191919, 1.010568], 1e-4)
  })

  test('predicts the published velocity without guidance', async () => {
    const schnell = await transformer(/^guidance_in/)
    const got = await (await steps(schnell, [0.75])).predict(img, 0)
    expectValues(
      got,
      [-1.52569, -1.79839, -0.54182, -1.24367, 1.59026, 0.17109],
      [-0.43371, 0.03415, 1.00631],
    )
  })
})

describe('F2, the autoencoder', () => {
  const channels = [32, 64, 128, 128]
  const conv = (name: string, out: number, inner: number, size = 3): Shapes => ({
    [`${name}.weight`]: [out, inner, size, size],
    [`${name}.bias`]: [out],
  })
  const norm = (name: string, size: number): Shapes => ({
    [`${name}.weight`]: [size],
    [`${name}.bias`]: [size],
  })
  const resnet = (name: string, from: number, to: number): Shapes => ({
    ...norm(`${name}.norm1`, from),
    ...conv(`${name}.conv1`, to, from),
    ...norm(`${name}.norm2`, to),
    ...conv(`${name}.conv2`, to, to),
    ...(from !== to && conv(`${name}.nin_shortcut`, to, from, 1)),
  })
  const mid = (coder: string, size: number): Shapes => ({
    ...resnet(`${coder}.mid.block_1`, size, size),
    ...resnet(`${coder}.mid.block_2`, size, size),
    ...norm(`${coder}.mid.attn_1.norm`, size),
    ...Object.assign(
      {},
      ...['q', 'k', 'v', 'proj_out'].map((part) =>
        conv(`${coder}.mid.attn_1.${part}`, size, size, 1),
      ),
    ),
  })

  function encoder(): Shapes {
    let shapes = conv('encoder.conv_in', 32, 3)
    let from = 32
    channels.forEach((to, level) => {
      for (let i = 0; i < 2; i++) {
        shapes = { ...shapes, ...resnet(`encoder.down.${level}.block.${i}`, from, to) }
        from = to
      }
      if (level < 3)
        shapes = { ...shapes, ...conv(`encoder.down.${level}.downsample.conv`, to, to) }
    })
    return {
      ...shapes,
      ...mid('encoder', 128),
      ...norm('encoder.norm_out', 128),
      ...conv('encoder.conv_out', 32, 128),
    }
  }

  function decoder(): Shapes {
    let shapes: Shapes = { ...conv('decoder.conv_in', 128, 16), ...mid('decoder', 128) }
    let from = 128
    for (let level = 3; level >= 0; level--) {
      const to = channels[level]!
      for (let i = 0; i < 3; i++) {
        shapes = { ...shapes, ...resnet(`decoder.up.${level}.block.${i}`, from, to) }
        from = to
      }
      if (level > 0) shapes = { ...shapes, ...conv(`decoder.up.${level}.upsample.conv`, to, to) }
    }
    return { ...shapes, ...norm('decoder.norm_out', 32), ...conv('decoder.conv_out', 3, 32) }
  }

  const shapes = { ...encoder(), ...decoder() }
  const graphs = () => buildAutoencoderGraphs(openLdmAutoencoder(hashedFile('ae', shapes)))

  test('has 244 tensors', () => expect(Object.keys(shapes)).toHaveLength(244))

  test('decodes to the published image', async () => {
    const session = await createSession(graphs().decoder.encode(['image']), options)
    const latents = floatTensor(hashed(1003, 16 * 4 * 6), [1, 16, 4, 6])
    const got = (await session.run({ latents }))['image']!.data as Float32Array
    expectValues(
      got,
      [0.01225, 0.02335, -0.00579, -0.20993, -0.22314, -0.31772],
      [-0.17522, -0.11731, -0.1404],
    )
    expectClose([mean(got), deviation(got)], [0.0482, 0.577505], 1e-4)
  })

  test('encodes to the published latents', async () => {
    const session = await createSession(graphs().encoder.encode(), options)
    const image = floatTensor(hashed(1004, 3 * 32 * 48), [1, 3, 32, 48])
    const got = (await session.run({ image }))['latents']!.data as Float32Array
    expectValues(got, [-0.1682, 0.2321, -0.08324, -0.13723, -0.10967, 0.03066])
    expectClose([mean(got), deviation(got)], [-0.06542, 0.190966], 1e-4)
  })
})

describe('F3, T5', () => {
  const [hidden, heads, headDim, mlpHidden] = [32, 4, 8, 48]
  const params = {
    hidden,
    heads,
    headDim,
    mlpHidden,
    layers: 2,
    vocabulary: 40,
    buckets: 32,
    maxDistance: 128,
    epsilon: 1e-6,
  }
  const block = (i: number): Shapes => {
    const attention = `encoder.block.${i}.layer.0.SelfAttention`
    const dense = `encoder.block.${i}.layer.1.DenseReluDense`
    return {
      [`${attention}.q.weight`]: [hidden, hidden],
      [`${attention}.k.weight`]: [hidden, hidden],
      [`${attention}.v.weight`]: [hidden, hidden],
      [`${attention}.o.weight`]: [hidden, hidden],
      [`encoder.block.${i}.layer.0.layer_norm.weight`]: [hidden],
      [`${dense}.wi_0.weight`]: [mlpHidden, hidden],
      [`${dense}.wi_1.weight`]: [mlpHidden, hidden],
      [`${dense}.wo.weight`]: [hidden, mlpHidden],
      [`encoder.block.${i}.layer.1.layer_norm.weight`]: [hidden],
    }
  }
  const shapes: Shapes = {
    'shared.weight': [40, hidden],
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': [32, heads],
    ...block(0),
    ...block(1),
    'encoder.final_layer_norm.weight': [hidden],
  }

  test('gives the published hidden states', async () => {
    const file = hashedFile('t5', shapes)
    const graph = createGraph('t5')
    addT5(portableOps(graph), params, createWeights(file, openSafetensors(file).tensors))
    const session = await createSession(graph.encode(), options)
    const ids = Int32Array.from([7, 3, 19, 22, 5, 11, 30, 2, 1, ...new Array(15).fill(0)])
    const buckets = intTensor(positionBuckets(params, 24), [24, 24])
    const result = await session.run({ ids: intTensor(ids, [24]), buckets })
    const got = result['hidden']!.data as Float32Array
    expectValues(
      got,
      [0.49441, -1.40115, -0.23755, 0.04238, -0.02516, 1.73493],
      [0.66275, -1.27765, -0.27703],
    )
    expectClose([mean(got), deviation(got)], [0.065602, 0.98349], 1e-4)
  })
})

describe('F4, CLIP', () => {
  const [hidden, mlpHidden] = [32, 64]
  const params = {
    hidden,
    mlpHidden,
    layers: 2,
    heads: 4,
    vocabulary: 60,
    positions: 12,
    epsilon: 1e-5,
  }
  const norm = (name: string): Shapes => ({
    [`${name}.weight`]: [hidden],
    [`${name}.bias`]: [hidden],
  })
  const layer = (i: number): Shapes => {
    const name = `text_model.encoder.layers.${i}`
    return {
      ...norm(`${name}.layer_norm1`),
      ...norm(`${name}.layer_norm2`),
      ...Object.assign(
        {},
        ...['q', 'k', 'v', 'out'].map((part) =>
          linear(`${name}.self_attn.${part}_proj`, hidden, hidden),
        ),
      ),
      ...linear(`${name}.mlp.fc1`, mlpHidden, hidden),
      ...linear(`${name}.mlp.fc2`, hidden, mlpHidden),
    }
  }
  const shapes: Shapes = {
    'text_model.embeddings.token_embedding.weight': [60, hidden],
    'text_model.embeddings.position_embedding.weight': [12, hidden],
    ...layer(0),
    ...layer(1),
    ...norm('text_model.final_layer_norm'),
  }

  test('gives the published pooled vector', async () => {
    const file = hashedFile('clip', shapes)
    const graph = createGraph('clip')
    addClip(portableOps(graph), params, createWeights(file, openSafetensors(file).tensors))
    const session = await createSession(graph.encode(['last_hidden_state']), options)
    const ids = Int32Array.from([58, 4, 9, 33, 21, ...new Array(7).fill(59)])
    const result = await session.run({ ids: intTensor(ids, [12]) })
    expectValues(
      result['last_hidden_state']!.data as Float32Array,
      [-0.46224, 0.35908, 0.38746, -0.56336, -1.38128, -0.45483],
    )
    expectValues(
      result['pooled']!.data as Float32Array,
      [-0.96844, 0.12751, -0.02161, -0.29643, -0.6981, -1.72538],
      [-0.00035, 1.12571, 0.91917],
    )
  })
})
