/** What randomWeights.ts writes is a whole checkpoint to the code that reads real ones. */
import { describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../src/engine/checkpoint/checkpoint.js'
import { buildClipGraph, buildT5Graph } from '../../src/engine/models/textEncoders.js'
import { buildTransformerGraphs } from '../../src/engine/models/transformer.js'
import { buildAutoencoderGraphs } from '../../src/engine/models/vae.js'
import { temporaryFolder } from '../weightFiles.js'
import { fullSizes, type RandomCheckpoint, writeRandomCheckpoint } from './randomWeights.js'
import {
  autoencoderShapes,
  bflTransformerShapes,
  clipShapes,
  diffusersTransformerShapes,
  type Shapes,
  t5Shapes,
} from './tensorShapes.js'

test.each<Omit<RandomCheckpoint, 'tiny'>>([
  { layout: 'diffusers', model: 'dev' },
  { layout: 'diffusers', model: 'schnell' },
  { layout: 'bfl', model: 'dev' },
  { layout: 'bfl', model: 'schnell' },
])('a checkpoint of layout $layout, model $model opens and fits its networks', (wanted) => {
  const path = writeRandomCheckpoint(temporaryFolder(), { ...wanted, tiny: true })
  const checkpoint = openCheckpoint(path)
  // Each throws on a tensor that is missing, of another shape or left over.
  buildTransformerGraphs(checkpoint.transformer)
  buildAutoencoderGraphs(checkpoint.autoencoder)
  buildClipGraph(checkpoint.text.clip)
  buildT5Graph(checkpoint.text.t5)
  expect(checkpoint.transformer.params.guidance).toBe(wanted.model === 'dev')
  expect(checkpoint.scheduler.useDynamicShifting).toBe(wanted.model === 'dev')
})

describe('at full size', () => {
  const dev = { ...fullSizes.flux, guidance: true }
  const schnell = { ...fullSizes.flux, guidance: false }
  // Parameters and tensors of the published checkpoints.
  test.each<[string, Shapes, number, number]>([
    ['dev of BFL', bflTransformerShapes(dev), 11_901_408_320, 780],
    ['dev of diffusers', diffusersTransformerShapes(dev), 11_901_408_320, 1160],
    ['schnell of BFL', bflTransformerShapes(schnell), 11_891_178_560, 776],
    ['schnell of diffusers', diffusersTransformerShapes(schnell), 11_891_178_560, 1156],
    ['the autoencoder', autoencoderShapes(fullSizes.autoencoder), 83_819_683, 244],
    ['CLIP', clipShapes(fullSizes.clip), 123_060_480, 196],
    ['T5', t5Shapes(fullSizes.t5), 4_762_310_656, 219],
  ])('%s has its number of parameters', (_, shapes, parameters, tensors) => {
    const counts = [...shapes.values()].map((shape) => shape.reduce((a, b) => a * b, 1))
    expect(counts.reduce((a, b) => a + b, 0)).toBe(parameters)
    expect(shapes.size).toBe(tensors)
  })
})
