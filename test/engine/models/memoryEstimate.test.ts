import { expect, test } from 'vitest'
import type { FluxParams } from '../../../src/engine/flux/params.js'
import { autoencoderBytes, stepBytes } from '../../../src/engine/models/memoryEstimate.js'

const flux: FluxParams = {
  heads: 24,
  headDim: 128,
  doubleBlocks: 19,
  singleBlocks: 38,
  inChannels: 64,
  txtDim: 4096,
  vecDim: 768,
  axes: [16, 56, 56],
  guidance: true,
}

test('a step of Flux.1 dev at 1024² holds half a gigabyte of activations', () => {
  expect(stepBytes(flux, 4608, 2)).toBe(509_607_936)
})

test('decoding at 1024² holds four maps of the whole image', () => {
  const params = {
    channels: [128, 256, 512, 512],
    layersPerBlock: 2,
    latentChannels: 16,
    groups: 32,
    scalingFactor: 0.3611,
    shiftFactor: 0.1159,
  }
  const size = { width: 1024, height: 1024 }
  expect(autoencoderBytes(params, size)).toBe(4 * 4 * 256 * 1024 ** 2)
})
