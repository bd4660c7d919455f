/** Which networks are loaded for which LoRAs, and what is merged into them: tiny-dev, on the CPU. */
import { copyFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../../src/engine/checkpoint/checkpoint.js'
import { addTransformer, isBlockWeight } from '../../../src/engine/flux/transformer.js'
import {
  type MergeSettings,
  mergeComponent,
  parseLoras,
} from '../../../src/engine/models/loraSet.js'
import { type Backend, portableBackend } from '../../../src/engine/runtime/backends/backend.js'
import { createGraph } from '../../../src/engine/runtime/onnx/graph.js'
import type { Ops } from '../../../src/engine/runtime/ops/ops.js'
import { portableOps } from '../../../src/engine/runtime/ops/portable.js'
import { createFileStore } from '../../../src/engine/runtime/weights/mergedTensorStore.js'
import type { TensorInMemory } from '../../../src/engine/runtime/weights/weights.js'
import type { LoraFile, Precision } from '../../../src/plan/plan.js'
import { fixturePath, goldenCase } from '../../goldens.js'
import { temporaryFolder } from '../../weightFiles.js'
import { writeLora } from '../lora/loraFiles.js'
import { mergeLoras } from '../lora/merging.js'
import { fixtureLora, loadMerged, pristine, tinyDev, velocity } from '../lora/tinyDev.js'
import { fixtureFile as lora, openWatched, predict, type WatchedOptions } from './watchedModels.js'

const { transformer, text } = openCheckpoint(fixturePath('tiny-dev'))
const parts = { transformer, clip: text.clip }
const golden = goldenCase('lora_peft')
const open = (options?: WatchedOptions) => openWatched(portableBackend, options)

describe('the transformer', () => {
  test('is loaded once for each precision', async () => {
    const { models, loaded } = await open()
    const bf16 = await predict(models, 'bf16')
    const fp8 = await predict(models, 'fp8')
    expect(fp8).not.toEqual(bf16)
    expect(await predict(models, 'bf16')).toEqual(bf16)
    expect(await predict(models, 'fp8', lora('peft', 0))).toEqual(fp8)
    expect(loaded).toEqual(['dev fp8'])
  })

  test('is evicted where there is memory for one precision', async () => {
    const { models, loaded } = await open({ capacity: 3 })
    const bf16 = await predict(models, 'bf16')
    await predict(models, 'fp8')
    expect(await predict(models, 'bf16')).toEqual(bf16)
    expect(loaded).toEqual(['dev fp8', 'dev bf16'])
  })

  test('with a set of LoRAs is loaded once; another scale or precision is another set', async () => {
    const { models, loaded } = await open()
    const set = [lora('peft', 0.5), lora('kohya_dense', -0.7)]
    const first = await predict(models, 'bf16', ...set)
    expect(await predict(models, 'bf16', ...set, lora('lokr', 0))).toEqual(first)
    expect(loaded.splice(0)).toEqual(['dev bf16 with LoRAs'])
    await predict(models, 'bf16', set[0]!, lora('kohya_dense', -0.6))
    await predict(models, 'fp8', set[0]!, lora('kohya_dense', -0.6))
    expect(loaded.splice(0)).toEqual(['dev bf16 with LoRAs', 'dev fp8 with LoRAs'])
    await predict(models, 'bf16', set[1]!, set[0]!)
    expect(loaded).toHaveLength(1)
  })

  test('with a set of LoRAs takes the place of that with the set before', async () => {
    const { models, loaded } = await open({ capacity: 5 })
    await predict(models, 'bf16', lora('peft'))
    await predict(models, 'bf16', lora('kohya_dense'))
    // Were both in memory, the base would have been evicted for them.
    await predict(models, 'bf16')
    expect(loaded).toEqual(['dev bf16 with LoRAs', 'dev bf16 with LoRAs'])
  })

  test('with a set of LoRAs is merged again after it was evicted', async () => {
    const { models, loaded } = await open({ capacity: 3 })
    const first = await predict(models, 'bf16', lora('peft'))
    await predict(models, 'fp8')
    expect(await predict(models, 'bf16', lora('peft'))).toEqual(first)
    expect(loaded).toEqual(['dev bf16 with LoRAs', 'dev fp8', 'dev bf16 with LoRAs'])
  })

  test('stays in memory until its lease is released, and no longer', async () => {
    const { models } = await open({ capacity: 3 })
    const set = await models.loadLoras('bf16', [])
    const { release } = await models.acquireTransformer('bf16', set)
    await expect(models.acquireTransformer('fp8', set)).rejects.toMatchObject({
      code: 'not_supported',
    })
    release()
    const other = await models.acquireTransformer('fp8', set)
    other.release()
  })

  test('that is too large with its run says so with the sizes, and no path', async () => {
    const { models } = await open({ capacity: 3 })
    const set = await models.loadLoras('bf16', [lora('peft')])
    await expect(models.acquireTransformer('bf16', set, { runBytes: 2 })).rejects.toThrow(
      /: dev bf16 with LoRAs [0-9a-f]{16} 0.0 kB, its run 0.0 kB$/,
    )
  })
})

describe('the text encoders', () => {
  test('are not needed for a prompt that was encoded before', async () => {
    const { models, loaded } = await open({ capacity: 2 })
    const set = await models.loadLoras('bf16', [])
    const first = await models.encodePrompt('a red fox', set)
    await predict(models, 'bf16')
    expect(await models.encodePrompt('a red fox', set)).toEqual(first)
    expect(loaded).toEqual(['dev CLIP', 'dev bf16'])
    expect(await models.encodePrompt('a dog', set)).not.toEqual(first)
    expect(loaded).toEqual(['dev CLIP', 'dev bf16', 'dev CLIP'])
  })

  test('serve every set that leaves them alone', async () => {
    const { models, loaded } = await open()
    const base = await models.encodePrompt('a red fox', await models.loadLoras('bf16', []))
    for (const set of [
      await models.loadLoras('fp8', []),
      await models.loadLoras('bf16', [lora('peft')]),
    ]) {
      const { pooled, hidden } = await models.encodePrompt('a red fox', set)
      expect(pooled).toBe(base.pooled)
      expect(hidden).toBe(base.hidden)
    }
    expect(loaded).toEqual(['dev CLIP'])
  })

  test('have a CLIP of their own for a LoRA that changes it', async () => {
    const { models, loaded } = await open()
    const layer = 'lora_te1_text_model_encoder_layers_0_self_attn_q_proj'
    const { hidden } = text.clip.params
    const path = writeLora({
      [`${layer}.lora_down.weight`]: [2, hidden],
      [`${layer}.lora_up.weight`]: [hidden, 2],
    })
    const encode = async (...loras: LoraFile[]) =>
      models.encodePrompt('a red fox', await models.loadLoras('bf16', loras))
    const base = await encode()
    const changed = await encode({ name: 'lora', path, scale: 1 })
    expect(changed.pooled).not.toEqual(base.pooled)
    expect(changed.hidden).toEqual(base.hidden)
    expect(await encode({ name: 'lora', path, scale: 0 })).toEqual(base)
    expect(await encode({ name: 'lora', path, scale: 1 })).toEqual(changed)
    expect(loaded).toEqual(['dev CLIP', 'dev CLIP with LoRAs'])
  })
})

describe('LoRA files', () => {
  test('are known by their digest: nothing is read again, wherever the file is', async () => {
    const { models, loaded } = await open()
    const [here, there] = [join(temporaryFolder(), 'a'), join(temporaryFolder(), 'b')]
    for (const path of [here, there]) copyFileSync(lora('peft').path, path)
    const at = (path: string, scale: number): LoraFile => ({
      name: 'lora',
      path,
      digest: 'sha256:5f',
      scale,
    })
    const first = await predict(models, 'bf16', at(here, 1))
    for (const path of [here, there]) rmSync(path)
    expect(await predict(models, 'bf16', at(there, 1))).toEqual(first)
    expect(loaded).toEqual(['dev bf16 with LoRAs'])
    const scaled = await predict(models, 'bf16', at(there, 0.5))
    expect(scaled).toEqual(await predict(models, 'bf16', lora('peft', 0.5)))
  })

  test('of the last two sets stay read', async () => {
    const { models } = await open()
    const copies = ['a', 'b', 'c'].map((digest) => {
      const path = join(temporaryFolder(), `${digest}.safetensors`)
      copyFileSync(lora('peft').path, path)
      return { name: digest, path, digest, scale: 1 }
    })
    for (const file of copies) await models.loadLoras('bf16', [file])
    for (const { path } of copies) rmSync(path)
    for (const file of copies.slice(1)) await models.loadLoras('bf16', [file])
    await expect(models.loadLoras('bf16', copies.slice(0, 1))).rejects.toThrow(/^a: expected/)
  })

  test('are called by their names where one cannot be merged, never by their paths', async () => {
    const { models } = await open()
    const folder = temporaryFolder()
    const broken = join(folder, 'broken.safetensors')
    writeFileSync(broken, 'no LoRA')
    const unknown = writeLora({ 'nowhere.lora_down.weight': [2, 2] })
    const notANumber = writeLora({
      'transformer.proj_out.diff': {
        dtype: 'F32',
        shape: [64, 32],
        bytes: new Uint8Array(new Float32Array(64 * 32).fill(Number.NaN).buffer),
      },
    })
    for (const path of [broken, join(folder, 'absent'), unknown, notANumber]) {
      const file = { name: 'acme/style', path, scale: 1 }
      const error = await models.loadLoras('bf16', [file]).catch((cause) => cause)
      expect(error).toMatchObject({ code: 'lora_invalid' })
      expect(error.message).toMatch(/^acme\/style: /)
      expect(error.message).not.toContain(path)
    }
  })

  test('that an aborted prediction waits for are not read', async () => {
    const { models } = await open()
    const signal = AbortSignal.abort(new Error('canceled'))
    const loading = models.loadLoras('bf16', [lora('peft')], signal)
    await expect(loading).rejects.toThrow('canceled')
  })
})

const settings = (changes: Partial<MergeSettings> = {}): MergeSettings => ({
  threads: 1,
  scratch: temporaryFolder(),
  maxBytesInMemory: 2 ** 30,
  changesInPlace: false,
  ...changes,
})

/** The transformer with one LoRA merged in. */
async function mergePeft(precision: Precision, scale: number, own: MergeSettings) {
  const parsed = await parseLoras(parts, precision, [lora('peft')], own)
  if (parsed.transformer.kind !== 'merged') throw new TypeError(`Got ${parsed.transformer.kind}`)
  const { merger } = parsed.transformer
  return mergeComponent(transformer, merger, [scale], own).finally(parsed.release)
}

describe('what is merged', () => {
  const merge = async (precision: Precision, scale: number) => {
    const { component, release } = await mergePeft(precision, scale, settings())
    release()
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
    const { models } = await open()
    const change = async (precision: Precision) => {
      const plus = await predict(models, precision, lora('peft', 0.1))
      const minus = await predict(models, precision, lora('peft', -0.1))
      return plus.map((value, i) => value - minus[i]!)
    }
    const [bf16, fp8] = [await change('bf16'), await change('fp8')]
    // The share of bf16's change that is in fp8's: 1.0004 is what is seen.
    expect(dot(fp8, bf16) / dot(bf16, bf16)).toBeCloseTo(1, 1)
  })
})

const dot = (a: Float32Array, b: Float32Array) =>
  a.reduce((sum, value, i) => sum + value * b[i]!, 0)

/** Sessions that widen weights when they are loaded, or in each run. */
const widening = (widenWeights: 'load' | 'run'): Backend => ({
  ...portableBackend,
  createSessions: (graphs, options) =>
    portableBackend.createSessions(graphs, { ...options, widenWeights }),
})

describe('a set that is too large for a model', () => {
  test.each(['load', 'run'] as const)(
    'goes through a file that is gone again: %s',
    async (widen) => {
      const scratch = temporaryFolder()
      const large = await openWatched(widening(widen), { scratch, maxMergedBytes: 0 })
      const small = await openWatched(widening(widen))
      for (const precision of ['bf16', 'fp8'] as const) {
        const got = await predict(large.models, precision, lora('peft', 0.6))
        expect(readdirSync(scratch)).toEqual([])
        expect(got).toEqual(await predict(small.models, precision, lora('peft', 0.6)))
      }
    },
  )

  test('leaves nothing behind when it cannot be loaded', async () => {
    const scratch = temporaryFolder()
    const own = settings({ scratch, maxBytesInMemory: 0 })
    await expect(mergePeft('bf16', Number.NaN, own)).rejects.toThrow(
      /Expected 1 finite LoRA scales/,
    )
    expect(readdirSync(scratch)).toEqual([])
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

test('a fresh load of merged weights predicts what a switch does', async () => {
  const { models } = await open()
  const adapter = fixtureLora('lora/lora_peft.safetensors')
  const merged = await mergeLoras(pristine, [{ adapter, scale: 0.6 }], {
    rounding: 'bf16',
    threads: 1,
  })
  const fresh = await loadMerged(merged)
  expect(await predict(models, 'bf16', lora('peft', 0.6))).toEqual(await velocity(fresh, golden))
})
