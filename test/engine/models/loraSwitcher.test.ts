/** Which networks are loaded for which wish, and what is merged into them: the tiny-dev checkpoint. */
import { copyFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { openCheckpoint } from '../../../src/engine/checkpoint/checkpoint.js'
import { addTransformer, isBlockWeight } from '../../../src/engine/flux/transformer.js'
import { mergeLoras } from '../../../src/engine/lora/merge/merger.js'
import { type MergeSettings, openLoraSet } from '../../../src/engine/models/loraSet.js'
import { type Adapters, createAdapters } from '../../../src/engine/models/loraSwitcher.js'
import { createRoom } from '../../../src/engine/models/memory.js'
import { createBudget } from '../../../src/engine/models/memoryBudget.js'
import { loadClip, loadT5 } from '../../../src/engine/models/textEncoders.js'
import { loadTransformer } from '../../../src/engine/models/transformer.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import type { Ops } from '../../../src/engine/runtime/ops/ops.js'
import { portableOps } from '../../../src/engine/runtime/ops/portable.js'
import { createFileStore } from '../../../src/engine/runtime/weights/mergedTensorStore.js'
import type { TensorInMemory } from '../../../src/engine/runtime/weights/weights.js'
import type { LoraFile, Precision } from '../../../src/plan/plan.js'
import { fixturePath, goldenCase } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { writeLora } from '../lora/loraFiles.js'
import { fixtureLora, loadMerged, options, pristine, tinyDev, velocity } from '../lora/tinyDev.js'

const { transformer, text } = openCheckpoint(fixturePath('tiny-dev'))
const parts = { transformer, clip: text.clip }
const golden = goldenCase('lora_peft')
const t5 = await loadT5(text, 16, options)
afterAll(() => t5.sessions[0]!.release())

const settings = (changes: Partial<MergeSettings> = {}): MergeSettings => ({
  threads: 1,
  scratch: temporaryFolder(),
  maxBytesInMemory: 2 ** 30,
  ...changes,
})

const lora = (name: string, scale = 1): LoraFile => ({
  name: 'lora',
  path: fixturePath(`lora/lora_${name}.safetensors`),
  scale,
})

/** Adapters that note what they load. Transformers take 2 bytes of the room, CLIP takes 1. */
async function create(
  changes: Partial<MergeSettings> = {},
  widenWeights: 'load' | 'run' = 'load',
  capacity = Number.POSITIVE_INFINITY,
) {
  const loaded: string[] = []
  const own = { ...options, widenWeights }
  const adapters = createAdapters(
    parts,
    {
      ...{ name: 'dev', changesInPlace: false },
      ...{ transformerBytes: { bf16: 2, fp8: 2 }, clipBytes: 1 },
      t5: t5.encode,
      loadTransformer: async (component, precision) => {
        loaded.push(precision)
        return loadTransformer(component, own, precision)
      },
      loadClip: async (clip) => {
        loaded.push('clip')
        return loadClip({ ...text, clip }, own)
      },
    },
    settings(changes),
    createRoom(createBudget(capacity)),
  )
  onTestFinished(() => adapters.release())
  return { adapters, loaded }
}

async function predict(adapters: Adapters, precision: Precision, ...loras: LoraFile[]) {
  const { enter } = await adapters.select(precision, loras)
  const { transformer, leave } = await enter()
  return velocity(transformer, golden).finally(leave)
}

describe('the networks', () => {
  test('are loaded once for each precision', async () => {
    const { adapters, loaded } = await create()
    const bf16 = await predict(adapters, 'bf16')
    const fp8 = await predict(adapters, 'fp8')
    expect(fp8).not.toEqual(bf16)
    expect(await predict(adapters, 'bf16')).toEqual(bf16)
    expect(await predict(adapters, 'fp8', lora('peft', 0))).toEqual(fp8)
    expect(loaded).toEqual(['bf16', 'fp8'])
  })

  test('go where there is memory for one precision', async () => {
    const { adapters, loaded } = await create({}, 'load', 3)
    const bf16 = await predict(adapters, 'bf16')
    await predict(adapters, 'fp8')
    expect(await predict(adapters, 'bf16')).toEqual(bf16)
    expect(loaded).toEqual(['bf16', 'fp8', 'bf16'])
  })

  test('of the same set of LoRAs are loaded once; another scale or precision is another set', async () => {
    const { adapters, loaded } = await create()
    const set = [lora('peft', 0.5), lora('kohya_dense', -0.7)]
    const first = await predict(adapters, 'bf16', ...set)
    expect(await predict(adapters, 'bf16', ...set, lora('lokr', 0))).toEqual(first)
    expect(loaded).toEqual(['bf16'])
    await predict(adapters, 'bf16', set[0]!, lora('kohya_dense', -0.6))
    await predict(adapters, 'fp8', set[0]!, lora('kohya_dense', -0.6))
    expect(loaded).toEqual(['bf16', 'bf16', 'fp8'])
    await predict(adapters, 'bf16', set[1]!, set[0]!)
    expect(loaded).toHaveLength(4)
  })

  test('of a set whose memory was taken are merged again', async () => {
    const { adapters, loaded } = await create({}, 'load', 3)
    const first = await predict(adapters, 'bf16', lora('peft'))
    await predict(adapters, 'fp8')
    expect(await predict(adapters, 'bf16', lora('peft'))).toEqual(first)
    expect(loaded).toEqual(['bf16', 'fp8', 'bf16'])
  })

  test('of a prompt that was encoded before need no text encoder', async () => {
    const { adapters, loaded } = await create({}, 'load', 2)
    const { prompt } = await adapters.select('bf16', [])
    const first = await prompt.encode('a red fox')
    await predict(adapters, 'bf16')
    expect(await prompt.encode('a red fox')).toEqual(first)
    expect(loaded).toEqual(['clip', 'bf16'])
    expect(await prompt.encode('a dog')).not.toEqual(first)
    expect(loaded).toEqual(['clip', 'bf16', 'clip'])
  })

  test('share the text encoders with every set that leaves them alone', async () => {
    const { adapters } = await create()
    const { prompt } = await adapters.select('bf16', [])
    expect((await adapters.select('fp8', [])).prompt).toBe(prompt)
    expect((await adapters.select('bf16', [lora('peft')])).prompt).toBe(prompt)
  })

  test('have a CLIP of their own for a LoRA that changes it', async () => {
    const { adapters } = await create()
    const layer = 'lora_te1_text_model_encoder_layers_0_self_attn_q_proj'
    const { hidden } = text.clip.params
    const path = writeLora({
      [`${layer}.lora_down.weight`]: [2, hidden],
      [`${layer}.lora_up.weight`]: [hidden, 2],
    })
    const encode = async (...loras: LoraFile[]) =>
      (await adapters.select('bf16', loras)).prompt.encode('a red fox')
    const base = await encode()
    const changed = await encode({ name: 'lora', path, scale: 1 })
    expect(changed.pooled).not.toEqual(base.pooled)
    expect(changed.hidden).toEqual(base.hidden)
    expect(await encode({ name: 'lora', path, scale: 0 })).toEqual(base)
    expect(await encode({ name: 'lora', path, scale: 1 })).toEqual(changed)
  })

  test('follow a digest where there is one: nothing is read again, wherever the file is', async () => {
    const { adapters, loaded } = await create()
    const [here, there] = [join(temporaryFolder(), 'a'), join(temporaryFolder(), 'b')]
    for (const path of [here, there]) copyFileSync(lora('peft').path, path)
    const digest = 'sha256:5f'
    const first = await predict(adapters, 'bf16', { name: 'lora', path: here, digest, scale: 1 })
    for (const path of [here, there]) rmSync(path)
    expect(
      await predict(adapters, 'bf16', { name: 'lora', path: there, digest, scale: 1 }),
    ).toEqual(first)
    expect(loaded).toEqual(['bf16'])
    const scaled = await predict(adapters, 'bf16', {
      name: 'lora',
      path: there,
      digest,
      scale: 0.5,
    })
    expect(scaled).toEqual(await predict(adapters, 'bf16', lora('peft', 0.5)))
  })
})

describe('what is merged', () => {
  const merge = async (precision: Precision, scale: number) => {
    const set = await openLoraSet(parts, precision, [lora('peft')], settings())
    if (set.transformer.kind !== 'merged') throw new TypeError(`Got ${set.transformer.kind}`)
    const { component, release } = await set.transformer.merge([scale])
    release()
    await set.release()
    return component.weights
  }
  const block = ['transformer_blocks.0.attn.to_q.weight', [32, 32]] as const
  const embedder = ['proj_out.weight', [64, 32]] as const
  const exact = mergeLoras(
    pristine,
    [{ adapter: fixtureLora('lora/lora_peft.safetensors'), scale: 0.6 }],
    {
      rounding: 'float32',
      threads: 1,
    },
  )

  test('is rounded to the dtype that the checkpoint stores', async () => {
    const weights = await merge('bf16', 0.6)
    expect(pristine.get(block[0])!.dtype).toBe('BF16')
    for (const [name, shape] of [block, embedder]) {
      const { dtype, values } = weights.tensor(name, shape) as TensorInMemory
      expect(dtype).toBe('BF16')
      const bits = new Uint32Array((await exact).get(name)!.data.buffer.slice(0))
      expect(values).toEqual(
        Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >> 16) & 1)) >>> 16),
      )
    }
  })

  test('stays a float32 sum where fp8 rounds it itself, and only there', async () => {
    const weights = await merge('fp8', 0.6)
    const { dtype, values } = weights.tensor(...block) as TensorInMemory
    expect(dtype).toBe('F32')
    expect(values).toEqual((await exact).get(block[0])!.data)
    expect(weights.tensor(...embedder).dtype).toBe('BF16')
  })

  test('and rounded by fp8 are the very layers that the network gives to it', () => {
    const rounded = new Set<string>()
    const ops = portableOps(createGraph('step'), 'fp8')
    const recording: Ops = {
      ...ops,
      blockLinear(x, layer, epilogue) {
        rounded.add(layer.weight.name)
        return ops.blockLinear(x, layer, epilogue)
      },
      rotatedQkv(streams, tables, heads) {
        for (const { q, k, v } of streams)
          for (const { weight } of [q, k, v]) rounded.add(weight.name)
        return ops.rotatedQkv(streams, tables, heads)
      },
    }
    addTransformer(recording, tinyDev.params, tinyDev.weights)
    expect([...rounded].sort()).toEqual([...pristine.keys()].filter(isBlockWeight).sort())
    // Two double blocks with two streams of six layers, three single ones of five.
    expect(rounded.size).toBe(2 * 2 * 6 + 3 * 5)
  })

  test('has in fp8 the strength that it has in bf16', async () => {
    const { adapters } = await create()
    const change = async (precision: Precision) => {
      const plus = await predict(adapters, precision, lora('peft', 0.1))
      const minus = await predict(adapters, precision, lora('peft', -0.1))
      return plus.map((value, i) => value - minus[i]!)
    }
    const [bf16, fp8] = [await change('bf16'), await change('fp8')]
    // The share of bf16's change that is in fp8's: 1.0004 is what is seen.
    expect(dot(fp8, bf16) / dot(bf16, bf16)).toBeCloseTo(1, 1)
  })
})

const dot = (a: Float32Array, b: Float32Array) =>
  a.reduce((sum, value, i) => sum + value * b[i]!, 0)

describe('a set that is too large for a model', () => {
  test.each(['load', 'run'] as const)(
    'goes through a file that is gone again: %s',
    async (widen) => {
      const scratch = temporaryFolder()
      const { adapters } = await create({ scratch, maxBytesInMemory: 0 }, widen)
      const small = await create({}, widen)
      for (const precision of ['bf16', 'fp8'] as const) {
        const got = await predict(adapters, precision, lora('peft', 0.6))
        expect(readdirSync(scratch)).toEqual([])
        expect(got).toEqual(await predict(small.adapters, precision, lora('peft', 0.6)))
      }
    },
  )

  test('leaves nothing behind when it cannot be loaded', async () => {
    const scratch = temporaryFolder()
    const set = await openLoraSet(
      parts,
      'bf16',
      [lora('peft')],
      settings({ scratch, maxBytesInMemory: 0 }),
    )
    if (set.transformer.kind !== 'merged') throw new TypeError(`Got ${set.transformer.kind}`)
    await expect(set.transformer.merge([Number.NaN])).rejects.toThrow(
      /Expected 1 finite LoRA scales/,
    )
    expect(readdirSync(scratch)).toEqual([])
    await set.release()
  })

  test('makes the folder it is to go into', () => {
    const scratch = join(temporaryFolder(), 'data/scratch')
    createFileStore(scratch, 1).release()
    expect(readdirSync(scratch)).toEqual([])
  })

  test('is refused before it is written when the disk is too small', () => {
    const scratch = temporaryFolder()
    expect(() => createFileStore(scratch, 2 ** 50)).toThrow(
      expect.objectContaining({
        code: 'engine_failed',
        message: expect.stringMatching(
          /^Expected 1125899906842624 free bytes in \S+ for merged weights but there are \d+$/,
        ),
      }),
    )
    expect(readdirSync(scratch)).toEqual([])
  })
})

test('a fresh load of merged weights predicts as the adapters do', async () => {
  const { adapters } = await create()
  const adapter = fixtureLora('lora/lora_peft.safetensors')
  const merged = await mergeLoras(pristine, [{ adapter, scale: 0.6 }], {
    rounding: 'bf16',
    threads: 1,
  })
  const fresh = await loadMerged(merged)
  expect(await predict(adapters, 'bf16', lora('peft', 0.6))).toEqual(await velocity(fresh, golden))
})
