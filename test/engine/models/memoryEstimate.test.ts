import { expect, test } from 'vitest'
import { autoencoderBytes, stepBytes } from '../../../src/engine/models/memoryEstimate.js'
import { fullSizes } from '../../bench/randomWeights.js'

test('a step of Flux.1 dev at 1024² holds half a gigabyte of activations', () => {
  expect(stepBytes({ ...fullSizes.flux, guidance: true }, 4608, 2)).toBe(509_607_936)
})

test('decoding at 1024² holds four maps of the whole image', () => {
  const size = { width: 1024, height: 1024 }
  expect(autoencoderBytes(fullSizes.autoencoder, size)).toBe(4 * 4 * 256 * 1024 ** 2)
})
