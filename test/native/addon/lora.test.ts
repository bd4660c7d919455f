/** LoRAs in the fused dialect, beside the base model whose weights they share. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Transformer } from '../../../src/engine/models/transformer.js'
import { mergeLoras } from '../../engine/lora/merging.js'
import { fixtureLora, loadMerged, pristine, tinyDev, velocity } from '../../engine/lora/tinyDev.js'
import { expectOutputs, goldenCase, readManifest } from '../../goldens.js'
import { fusedBackend } from './kit.js'

const cases = readManifest().cases.filter(({ kind }) => kind === 'lora')
type Use = { readonly file: string; readonly weight: number }

const backend = fusedBackend('F32')
const release = async ({ sessions }: Transformer) => {
  for (const session of sessions) await session.release()
}

let base: Transformer
beforeAll(async () => {
  base = await loadMerged(new Map(), tinyDev, 'bf16', backend)
})
afterAll(() => release(base))

describe.each(cases)('$id', ({ id, params }) => {
  const golden = goldenCase(id)
  const outputs = Object.keys(golden.outputs).filter((name) => !name.endsWith('bf16merge'))

  test.each(outputs)('%s agrees with diffusers', async (output) => {
    const scale = Number(/^scale_(.+)_fp32merge$/.exec(output)?.[1] ?? 0)
    const uses = params['adapters'].map(({ file, weight }: Use) => ({
      adapter: fixtureLora(file),
      scale: scale * weight,
    }))
    const before = await velocity(base, golden)
    const merged = await mergeLoras(pristine, uses, { rounding: 'float32', threads: 1 })
    const transformer = await loadMerged(merged, tinyDev, 'bf16', backend)
    expectOutputs(golden, { [output]: await velocity(transformer, golden) })
    await release(transformer)
    expect(await velocity(base, golden)).toEqual(before)
  })
})
