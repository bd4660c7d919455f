import { expect, test } from 'vitest'
import { openTextSide } from '../../../src/engine/checkpoint/checkpoint.js'
import { positionBuckets } from '../../../src/engine/flux/t5.js'
import { buildClipGraph, buildT5Graph } from '../../../src/engine/models/textEncoders.js'
import { createSession } from '../../../src/engine/runtime/backends/ort/session.js'
import { intTensor } from '../../../src/safetensors/tensor.js'
import { expectClose, fixturePath, goldenCase } from '../../goldens.js'

const options = { threads: 1, widenWeights: 'load' } as const
const models = ['tiny-dev', 'tiny-schnell'] as const

/** The rows [i·size, (i+1)·size) of a batch. */
const element = <T extends Float32Array | Int32Array>(batch: T, i: number, size: number) =>
  batch.subarray(i * size, (i + 1) * size) as T

test.each(models)('CLIP of %s agrees with transformers', async (model) => {
  const text = openTextSide(fixturePath(model))
  const { hidden, positions } = text.clip.params
  const session = await createSession(
    buildClipGraph(text.clip).encode(['last_hidden_state']),
    options,
  )
  const golden = goldenCase(`clip_${model}`)
  const ids = golden.inputs['input_ids']!
  const { last_hidden_state, pooled } = golden.outputs
  for (let i = 0; i < ids.shape[0]!; i++) {
    const row = element(ids.data as Int32Array, i, positions)
    const result = await session.run({ ids: intTensor(row, [positions]) })
    const wanted = element(last_hidden_state!.data as Float32Array, i, positions * hidden)
    expectClose(result['last_hidden_state']!.data, wanted, last_hidden_state!.atol!)
    const wantedPooled = element(pooled!.data as Float32Array, i, hidden)
    expectClose(result['pooled']!.data, wantedPooled, pooled!.atol!)
  }
})

test.each(models.flatMap((model) => [128, 512].map((length) => ({ model, length }))))(
  'T5 of $model agrees with transformers at $length tokens',
  async ({ model, length }) => {
    const text = openTextSide(fixturePath(model))
    const session = await createSession(buildT5Graph(text.t5).encode(), options)
    const buckets = intTensor(positionBuckets(text.t5.params, length), [length, length])
    const golden = goldenCase(`t5_${model}_${length}`)
    const ids = golden.inputs['input_ids']!
    const { data, atol } = golden.outputs['hidden']!
    for (let i = 0; i < ids.shape[0]!; i++) {
      const row = element(ids.data as Int32Array, i, length)
      const result = await session.run({ ids: intTensor(row, [length]), buckets })
      const wanted = element(data as Float32Array, i, length * text.t5.params.hidden)
      expectClose(result['hidden']!.data, wanted, atol!)
    }
  },
)

test('positions fall into the buckets of T5', () => {
  const { params } = openTextSide(fixturePath('tiny-dev')).t5
  const length = 600
  const buckets = positionBuckets({ ...params, buckets: 32, maxDistance: 128 }, length)
  const before = (distance: number) => buckets[599 * length + (599 - distance)]
  const after = (distance: number) => buckets[distance]
  // F-2.5: the first distance of each bucket.
  const thresholds = [8, 12, 16, 23, 32, 46, 64, 91]
  expect(thresholds.map(before)).toEqual([8, 9, 10, 11, 12, 13, 14, 15])
  expect(thresholds.map((distance) => before(distance - 1))).toEqual([7, 8, 9, 10, 11, 12, 13, 14])
  expect([0, 7, 500].map(before)).toEqual([0, 7, 15])
  expect([1, 7, 11, 12, 91, 599].map(after)).toEqual([17, 23, 24, 25, 31, 31])
})
