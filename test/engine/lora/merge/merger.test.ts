/** Every LoRA case of the fixtures, from the adapter's file to the velocity. */
import { describe, expect, test } from 'vitest'
import type { Rounding } from '../../../../src/engine/lora/merge/mergeGraph.js'
import { createMerger } from '../../../../src/engine/lora/merge/merger.js'
import { createGraph } from '../../../../src/engine/runtime/onnx/graph.js'
import { inMemory } from '../../../../src/engine/runtime/weights/mergedTensorStore.js'
import { withMerged } from '../../../../src/engine/runtime/weights/weights.js'
import { floatTensor } from '../../../../src/safetensors/tensor.js'
import { expectClose, expectOutputs, goldenCase, readManifest } from '../../../goldens.js'
import { mergeAll, mergeLoras } from '../merging.js'
import { fixtureLora, loadMerged, pristine, tinyDev, tinyDevBfl, velocity } from '../tinyDev.js'

const cases = readManifest().cases.filter(({ kind }) => kind === 'lora')
const roundings = { fp32merge: 'float32', bf16merge: 'bf16' } as const
type Use = { readonly file: string; readonly weight: number }

const uses = (adapters: readonly Use[], scale: number) =>
  adapters.map(({ file, weight }) => ({ adapter: fixtureLora(file), scale: scale * weight }))

test('the fixtures hold all eleven LoRA cases', () => {
  expect(cases).toHaveLength(11)
})

describe.each(cases)('$id', ({ id, params }) => {
  const golden = goldenCase(id)

  test.each(Object.keys(golden.outputs))('%s agrees with diffusers', async (output) => {
    const match = /^scale_(.+)_(fp32merge|bf16merge)$/.exec(output)
    const scale = Number(match?.[1] ?? 0)
    const rounding: Rounding = roundings[(match?.[2] ?? 'fp32merge') as keyof typeof roundings]
    const loras = uses(params['adapters'], scale)
    const merged = await mergeLoras(pristine, loras, { rounding, threads: 1 })
    const transformer = await loadMerged(merged)
    const got = await velocity(transformer, golden)
    // The largest difference seen is 7.7e-5; tolerances are 3.6e-4 and more.
    expectOutputs(golden, { [output]: got })
    await Promise.all(transformer.sessions.map((session) => session.release()))
  })

  const norms: Record<string, number> = params['delta_frobenius_scale1']
  if (Object.keys(norms).length === 0) return

  test('changes every module by the norm that the reference gives, and no other', async () => {
    const [only] = uses(params['adapters'], 1)
    const got = await deltaNorms(only!.adapter)
    expect(Object.keys(got).sort()).toEqual(Object.keys(norms).sort())
    for (const [module, norm] of Object.entries(norms))
      expectClose([got[module]!], [norm], 2e-5 * norm, module)
  })
})

// ‖W' − W‖ per diffusers module. Merging at scales 1 and −1 leaves out W: (W + Δ) − (W − Δ) = 2Δ.
async function deltaNorms(adapter: ReturnType<typeof fixtureLora>) {
  const merger = await createMerger(pristine, [adapter], { rounding: 'float32', threads: 1 })
  const [plus, minus] = [await mergeAll(merger, [1]), await mergeAll(merger, [-1])]
  await merger.release()
  const squares: Record<string, number> = {}
  for (const [name, { data }] of plus) {
    const module = name.replace(/\.weight$/, '').replace(/^norm_out\.\w+$/, 'norm_out.linear')
    const other = minus.get(name)!.data
    const sum = data.reduce((total, value, i) => total + ((value - other[i]!) / 2) ** 2, 0)
    squares[module] = (squares[module] ?? 0) + sum
  }
  return Object.fromEntries(Object.entries(squares).map(([name, sum]) => [name, Math.sqrt(sum)]))
}

describe('a merge', () => {
  const peft = fixtureLora('lora/lora_peft.safetensors')
  const kohya = fixtureLora('lora/lora_kohya_dense.safetensors')
  const float32 = { rounding: 'float32', threads: 1 } as const

  test('at scale 0 touches nothing', async () => {
    expect(await mergeLoras(pristine, [{ adapter: peft, scale: 0 }], float32)).toEqual(new Map())
    const merger = await createMerger(pristine, [peft, kohya], float32)
    expect(await mergeAll(merger, [0, 0])).toEqual(new Map())
    expect([...(await mergeAll(merger, [0, 1])).keys()].sort()).toEqual(
      [...kohya.deltas.keys()].sort(),
    )
    await merger.release()
  })

  test('into the BFL file gives the same tensors as into the diffusers folder', async () => {
    const loras = [{ adapter: peft, scale: 0.8 }]
    const diffusers = await mergeLoras(pristine, loras, float32)
    const bfl = await mergeLoras(tinyDevBfl.weights.pristine, loras, float32)
    expect(bfl).toEqual(diffusers)
    const golden = goldenCase('lora_peft')
    const unlike = await velocity(await loadMerged(new Map()), golden)
    const got = await velocity(await loadMerged(bfl, tinyDevBfl), golden)
    expect(got).toEqual(await velocity(await loadMerged(diffusers), golden))
    expect(got).not.toEqual(unlike)
  })

  test('of the same file twice adds both scales', async () => {
    const twice = await mergeLoras(
      pristine,
      [
        { adapter: peft, scale: 0.25 },
        { adapter: peft, scale: 0.5 },
      ],
      float32,
    )
    const once = await mergeLoras(pristine, [{ adapter: peft, scale: 0.75 }], float32)
    for (const [name, { data }] of once) expectClose(twice.get(name)!.data, data, 1e-6, name)
  })

  test('in bf16 rounds to nearest, ties to even, once', async () => {
    const loras = [{ adapter: peft, scale: 1 }]
    const exact = await mergeLoras(pristine, loras, float32)
    const rounded = await mergeLoras(pristine, loras, { rounding: 'bf16', threads: 1 })
    for (const [name, { data }] of exact)
      expect(rounded.get(name)!.data, name).toEqual(data.map(toBfloat16))
  })

  test('leaves tensors of another network to its own merger', async () => {
    const base = new Map([...pristine].filter(([name]) => name.startsWith('proj_out')))
    const merged = await mergeLoras(base, [{ adapter: peft, scale: 1 }], float32)
    expect([...merged.keys()]).toEqual(['proj_out.weight'])
  })

  test('refuses scales that are no numbers or too few', async () => {
    const merger = await createMerger(pristine, [peft], float32)
    await expect(mergeAll(merger, [Number.NaN])).rejects.toThrow(/Expected 1 finite LoRA scales/)
    await expect(mergeAll(merger, [])).rejects.toThrow(/Expected 1 finite LoRA scales but got \[\]/)
    await merger.release()
  })

  test('leaves the pristine weights as they are', async () => {
    await mergeLoras(pristine, [{ adapter: peft, scale: 3 }], float32)
    const golden = goldenCase('lora_peft')
    expectOutputs(golden, { base: await velocity(await loadMerged(new Map()), golden) })
    expect(tinyDev.weights.pristine).toBe(pristine)
  })
})

describe('weights with merged tensors', () => {
  const name = 'proj_out.weight'
  const merged = (data: Float32Array, dims: readonly number[]) =>
    withMerged(tinyDev.weights, new Map([[name, inMemory(name, floatTensor(data, dims))]]))

  test('keep the name and shape of what they replace', () => {
    const data = new Float32Array(64 * 32)
    const { weight, bias } = merged(data, [64, 32]).layer('proj_out', [64, 32])
    expect(weight).toEqual({ name, dtype: 'F32', shape: [64, 32], values: data })
    expect(bias).toBe(tinyDev.weights.tensor('proj_out.bias', [64]))
    expect(tinyDev.weights.tensor(name, [64, 32])).toBe(pristine.get(name))
  })

  test('are refused under a name or in a shape that the model does not have', () => {
    const tensor = inMemory('proj.weight', floatTensor(new Float32Array(1), [1]))
    expect(() => withMerged(tinyDev.weights, new Map([['proj.weight', tensor]]))).toThrow(
      /Expected the name of a tensor to replace but got proj\.weight/,
    )
    expect(() => merged(new Float32Array(1), [1]).tensor(name, [64, 32])).toThrow(
      /Expected proj_out\.weight merged as \[64,32\] but got \[1\]/,
    )
  })

  test('are refused where they would not fit into a model of 2 GiB', () => {
    const graph = createGraph('large')
    const values = new Float32Array(2 ** 29)
    graph.weight({ name, dtype: 'F32', shape: [2 ** 29], values })
    expect(() => graph.encode()).toThrow(
      /Expected at most \d+ bytes of merged weights in graph large but got 2147483648/,
    )
  })
})

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

function toBfloat16(value: number): number {
  float[0] = value
  bits[0] = (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000
  return float[0]!
}
