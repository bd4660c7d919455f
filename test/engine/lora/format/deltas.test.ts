/** Every kind of change against its formula, written out in JavaScript. F-4.1 and F-4.5. */
import { describe, expect, test } from 'vitest'
import { openTextSide } from '../../../../src/engine/checkpoint/checkpoint.js'
import { readLora } from '../../../../src/engine/lora/format/read.js'
import { mergeLoras } from '../../../../src/engine/lora/merge/merger.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { expectClose, fixturePath, readSafetensors } from '../../../goldens.js'
import { number, product, writeLora } from '../loraFiles.js'
import { pristine, tinyDev } from '../tinyDev.js'

const text = openTextSide(fixturePath('tiny-dev'))
const base = { transformer: tinyDev.params, clip: text.clip.params }
const scale = 0.7

type File = Parameters<typeof writeLora>[0]

/** The merged tensors of a file at `scale`, and the file's own values. */
async function merge(file: File, into = pristine) {
  const path = writeLora(file)
  const adapter = readLora(openSafetensors(path), base)
  const options = { rounding: 'float32', threads: 1 } as const
  const merged = await mergeLoras(into, [{ adapter, scale }], options)
  const stored = readSafetensors(path)
  return { merged, values: (name: string) => stored[name]!.data as Float32Array }
}

/** The pristine values of a tensor, read by the tests' own reader. */
function baseValues(name: string, into = pristine): Float32Array {
  const slice = into.get(name)!
  const tensor = readSafetensors(slice.file)[slice.name.replace(/\[.*$/, '')]!
  const first = /\[(\d+):/.exec(slice.name)?.[1]
  const size = slice.shape.reduce((a, b) => a * b, 1)
  const begin = (Number(first ?? 0) * size) / slice.shape[0]!
  return (tensor.data as Float32Array).slice(begin, begin + size)
}

const add = (w: ArrayLike<number>, delta: ArrayLike<number>, strength = scale) =>
  Array.from(w, (value, i) => value + strength * delta[i]!)

const rowsOf = <T>(matrix: readonly T[], columns: number, begin: number, end: number) =>
  matrix.slice(begin * columns, end * columns)

// Float32 against float64 of values around 1; the largest difference seen is 6e-8.
const atol = 5e-7

const q = 'transformer_blocks.0.attn.to_q'
const qkv = ['to_q', 'to_k', 'to_v'].map((part) => `transformer_blocks.1.attn.${part}`)
const fused = 'lora_unet_double_blocks_1_img_attn_qkv'

describe('a change', () => {
  test('of low rank with an alpha adds scale·alpha/rank·up·down', async () => {
    const { merged, values } = await merge({
      [`transformer.${q}.alpha`]: number(6),
      [`transformer.${q}.lora_A.weight`]: [4, 32],
      [`transformer.${q}.lora_B.weight`]: [32, 4],
    })
    const delta = product(
      values(`transformer.${q}.lora_B.weight`),
      values(`transformer.${q}.lora_A.weight`),
      4,
      6 / 4,
    )
    const name = `${q}.weight`
    expectClose(merged.get(name)!.data, add(baseValues(name), delta), atol)
  })

  test('that is stored like a 1×1 convolution is a matrix', async () => {
    const [down, up] = [`${q}.lora_down.weight`, `${q}.lora_up.weight`]
    const { merged, values } = await merge({ [down]: [4, 32, 1, 1], [up]: [32, 4, 1, 1] })
    const want = add(baseValues(`${q}.weight`), product(values(up), values(down), 4))
    expectClose(merged.get(`${q}.weight`)!.data, want, atol)
  })

  test('of weight and bias as they are adds scale times them', async () => {
    const { merged, values } = await merge({
      [`${fused}.diff`]: [96, 32],
      [`${fused}.diff_b`]: [96],
    })
    expect(merged.size).toBe(6)
    qkv.forEach((layer, i) => {
      const weight = rowsOf([...values(`${fused}.diff`)], 32, 32 * i, 32 * (i + 1))
      const bias = [...values(`${fused}.diff_b`)].slice(32 * i, 32 * (i + 1))
      for (const [name, delta] of [
        [`${layer}.weight`, weight],
        [`${layer}.bias`, bias],
      ] as const)
        expectClose(merged.get(name)!.data, add(baseValues(name), delta), atol, name)
    })
  })

  test("of low rank with a bias scales the bias by alpha/rank too, as PEFT's lora_bias", async () => {
    const key = 'final_layer.adaLN_modulation.1'
    const { merged, values } = await merge({
      [`${key}.alpha`]: number(1),
      [`${key}.lora_A.weight`]: [2, 32],
      [`${key}.lora_B.weight`]: [64, 2],
      [`${key}.lora_B.bias`]: [64],
    })
    const bias = [...values(`${key}.lora_B.bias`)]
    const delta = product(values(`${key}.lora_B.weight`), values(`${key}.lora_A.weight`), 2, 0.5)
    // BFL writes shift, then scale.
    ;['norm_out.shift', 'norm_out.scale'].forEach((layer, i) => {
      const half = (columns: number, all: number[]) => rowsOf(all, columns, 32 * i, 32 * (i + 1))
      const weight = add(baseValues(`${layer}.weight`), half(32, delta))
      expectClose(merged.get(`${layer}.weight`)!.data, weight, atol, layer)
      const biasWant = add(baseValues(`${layer}.bias`), half(1, bias), scale * 0.5)
      expectClose(merged.get(`${layer}.bias`)!.data, biasWant, atol, layer)
    })
  })

  test("of a norm's scale adds to it", async () => {
    const key = 'diffusion_model.double_blocks.1.txt_attn.norm.key_norm.scale.diff'
    const { merged, values } = await merge({ [key]: [16] })
    const name = 'transformer_blocks.1.attn.norm_added_k.weight'
    expectClose(merged.get(name)!.data, add(baseValues(name), values(key)), atol)
  })

  test('of LoKr on a fused layer falls apart by rows', async () => {
    const { merged, values } = await merge({
      [`${fused}.alpha`]: number(3),
      [`${fused}.lokr_w1`]: [6, 4],
      [`${fused}.lokr_w2_a`]: [16, 2],
      [`${fused}.lokr_w2_b`]: [2, 8],
    })
    const first = values(`${fused}.lokr_w1`)
    const second = product(values(`${fused}.lokr_w2_a`), values(`${fused}.lokr_w2_b`), 2, 3 / 2)
    const delta = Array.from({ length: 96 * 32 }, (_, k) => {
      const [i, j] = [Math.floor(k / 32), k % 32]
      return first[Math.floor(i / 16) * 4 + Math.floor(j / 8)]! * second[(i % 16) * 8 + (j % 8)]!
    })
    qkv.forEach((layer, i) => {
      const want = add(baseValues(`${layer}.weight`), rowsOf(delta, 32, 32 * i, 32 * (i + 1)))
      expectClose(merged.get(`${layer}.weight`)!.data, want, atol, layer)
    })
  })

  test('of CLIP is merged into CLIP', async () => {
    const key = 'lora_te1_text_model_encoder_layers_1_mlp_fc2'
    const file = {
      [`${key}.lora_down.weight`]: [2, 32],
      [`${key}.lora_up.weight`]: [16, 2],
      [`transformer.${q}.diff_b`]: [32],
    }
    const { merged, values } = await merge(file, text.clip.weights.pristine)
    const name = 'text_model.encoder.layers.1.mlp.fc2.weight'
    expect([...merged.keys()]).toEqual([name])
    const delta = product(values(`${key}.lora_up.weight`), values(`${key}.lora_down.weight`), 2)
    const before = baseValues(name, text.clip.weights.pristine)
    expectClose(merged.get(name)!.data, add(before, delta), atol)
  })
})

describe('DoRA', () => {
  /** scale·(m·V/‖V‖ − W) added to W, V = W + Δ; the norm over each line of `lineOf`. */
  function dora(
    w: Float32Array,
    delta: readonly number[],
    magnitude: ArrayLike<number>,
    lineOf: (index: number) => number,
  ) {
    const direction = add(w, delta, 1)
    const squares: number[] = []
    direction.forEach((value, i) => {
      squares[lineOf(i)] = (squares[lineOf(i)] ?? 0) + value ** 2
    })
    const target = direction.map(
      (value, i) => (magnitude[lineOf(i)]! * value) / Math.sqrt(squares[lineOf(i)]!),
    )
    return Array.from(w, (value, i) => value + scale * (target[i]! - value))
  }

  test.each([
    ['dora_scale', [96, 1]],
    ['lora_magnitude_vector', [96]],
    ['lora_magnitude_vector.default.weight', [96]],
  ])('normalises rows, also of a fused layer: %s', async (suffix, shape) => {
    const { merged, values } = await merge({
      [`${fused}.lora_down.weight`]: [4, 32],
      [`${fused}.lora_up.weight`]: [96, 4],
      [`${fused}.${suffix}`]: shape,
    })
    const magnitude = values(`${fused}.${suffix}`)
    const delta = product(values(`${fused}.lora_up.weight`), values(`${fused}.lora_down.weight`), 4)
    qkv.forEach((layer, i) => {
      const want = dora(
        baseValues(`${layer}.weight`),
        rowsOf(delta, 32, 32 * i, 32 * (i + 1)),
        magnitude.subarray(32 * i, 32 * (i + 1)),
        (k) => Math.floor(k / 32),
      )
      expectClose(merged.get(`${layer}.weight`)!.data, want, atol, layer)
    })
  })

  test('normalises columns where the magnitudes lie in one row', async () => {
    const layer = 'single_transformer_blocks.0.proj_out'
    const key = `lycoris_${layer.replaceAll('.', '_')}`
    const { merged, values } = await merge({
      [`${key}.lora_down.weight`]: [4, 160],
      [`${key}.lora_up.weight`]: [32, 4],
      [`${key}.dora_scale`]: [1, 160],
    })
    const delta = product(values(`${key}.lora_up.weight`), values(`${key}.lora_down.weight`), 4)
    const magnitude = values(`${key}.dora_scale`)
    const want = dora(baseValues(`${layer}.weight`), delta, magnitude, (k) => k % 160)
    expectClose(merged.get(`${layer}.weight`)!.data, want, atol)
  })
})
