/** Every kind of change against its formula, written out in JavaScript. F-4.1 and F-4.5. */
import { describe, expect, test } from 'vitest'
import { openTextSide } from '../../../../src/engine/checkpoint/checkpoint.js'
import { openLora, readLora } from '../../../../src/engine/lora/format/read.js'
import { openSafetensors } from '../../../../src/safetensors/read.js'
import { expectClose, fixturePath, readSafetensors } from '../../../goldens.js'
import { number, product, writeLora } from '../loraFiles.js'
import { mergeLoras } from '../merging.js'
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

/** The merged tensors of the file at `path`, whose values are checked to be finite first. */
async function mergeFile(path: string) {
  const adapter = await openLora({ name: path, path }, base, 1)
  return mergeLoras(pristine, [{ adapter, scale }], { rounding: 'float32', threads: 1 })
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

  test("of low rank with a bias scales the bias by alpha/rank, as PEFT's lora_bias", async () => {
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

  test.each<[string, Record<string, readonly number[]>]>([
    ['LoRA', { 'lora_down.weight': [4, 32], 'lora_up.weight': [96, 4] }],
    ['LoHa', { hada_w1_a: [96, 4], hada_w1_b: [4, 32], hada_w2_a: [96, 4], hada_w2_b: [4, 32] }],
  ])('normalises the columns of a fused layer over all of its rows: %s', async (kind, roles) => {
    const changes = Object.fromEntries(
      Object.entries(roles).map(([role, shape]) => [`${fused}.${role}`, shape]),
    )
    const { merged, values } = await merge({ ...changes, [`${fused}.dora_scale`]: [1, 32] })
    const matrix = (up: string, down: string) =>
      product(values(`${fused}.${up}`), values(`${fused}.${down}`), 4)
    const isLoha = kind === 'LoHa'
    const second = isLoha ? matrix('hada_w2_a', 'hada_w2_b') : undefined
    const first = isLoha
      ? matrix('hada_w1_a', 'hada_w1_b')
      : matrix('lora_up.weight', 'lora_down.weight')
    const delta = first.map((value, i) => value * (second?.[i] ?? 1))
    const whole = Float32Array.from(qkv.flatMap((layer) => [...baseValues(`${layer}.weight`)]))
    const want = dora(whole, delta, values(`${fused}.dora_scale`), (k) => k % 32)
    qkv.forEach((layer, i) => {
      const rows = rowsOf(want, 32, 32 * i, 32 * (i + 1))
      expectClose(merged.get(`${layer}.weight`)!.data, rows, atol, layer)
    })
  })
})

describe('values of every dtype', () => {
  const key = 'transformer_blocks.0.attn.to_q.diff'
  const bytesOf = (data: ArrayBufferView) => new Uint8Array(data.buffer, 0, data.byteLength)
  const repeat = (bytes: readonly number[]) =>
    Uint8Array.from({ length: (1024 / 2) * bytes.length }, (_, i) => bytes[i % bytes.length]!)
  // Pairs of values and their bits.
  test.each<[string, Uint8Array, [number, number]]>([
    ['F64', bytesOf(Float64Array.from({ length: 1024 }, (_, i) => (i % 2 ? -3 : 1.5))), [1.5, -3]],
    ['F16', repeat([0x00, 0x3e, 0x00, 0xc2]), [1.5, -3]],
    ['BF16', repeat([0xc0, 0x3f, 0x40, 0xc0]), [1.5, -3]],
    ['F8_E4M3', repeat([0x3c, 0xc4]), [1.5, -3]],
    ['F8_E4M3FNUZ', repeat([0x44, 0xcc]), [1.5, -3]],
    ['F8_E5M2', repeat([0x3e, 0xc2]), [1.5, -3]],
    ['F8_E5M2FNUZ', repeat([0x42, 0xc6]), [1.5, -3]],
    ['I64', bytesOf(BigInt64Array.from({ length: 1024 }, (_, i) => (i % 2 ? -3n : 2n))), [2, -3]],
    ['U64', bytesOf(BigUint64Array.from({ length: 1024 }, (_, i) => (i % 2 ? 3n : 2n))), [2, 3]],
    ['I32', bytesOf(Int32Array.from({ length: 1024 }, (_, i) => (i % 2 ? -3 : 2))), [2, -3]],
    ['U32', bytesOf(Uint32Array.from({ length: 1024 }, (_, i) => (i % 2 ? 3 : 2))), [2, 3]],
    ['I16', bytesOf(Int16Array.from({ length: 1024 }, (_, i) => (i % 2 ? -3 : 2))), [2, -3]],
    ['U16', bytesOf(Uint16Array.from({ length: 1024 }, (_, i) => (i % 2 ? 3 : 2))), [2, 3]],
    ['I8', repeat([2, 0xfd]), [2, -3]],
    ['U8', repeat([2, 3]), [2, 3]],
    ['BOOL', repeat([1, 0]), [1, 0]],
  ])('are merged: %s', async (dtype, bytes, [even, odd]) => {
    const merged = await mergeFile(writeLora({ [key]: { dtype, shape: [32, 32], bytes } }))
    const delta = Array.from({ length: 1024 }, (_, i) => (i % 2 ? odd : even))
    const name = 'transformer_blocks.0.attn.to_q.weight'
    expectClose(merged.get(name)!.data, add(baseValues(name), delta), atol)
  })

  test.each(['F8_E4M3', 'F16'])('as factors of a product, with an alpha: %s', async (dtype) => {
    const one = dtype === 'F16' ? [0x00, 0x3c] : [0x38]
    const ones = (shape: number[]) => {
      const count = shape.reduce((a, b) => a * b, 1)
      const bytes = Uint8Array.from({ length: count * one.length }, (_, i) => one[i % one.length]!)
      return { dtype, shape, bytes }
    }
    const path = writeLora({
      [`${fused}.lora_down.weight`]: ones([4, 32]),
      [`${fused}.lora_up.weight`]: ones([96, 4]),
      [`${fused}.alpha`]: ones([]),
    })
    const merged = await mergeFile(path)
    for (const layer of qkv) {
      const want = add(baseValues(`${layer}.weight`), Array(1024).fill(1))
      expectClose(merged.get(`${layer}.weight`)!.data, want, atol)
    }
  })
})

test("a change of CLIP's norms is merged, its bias too", async () => {
  const key = 'text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1'
  const into = text.clip.weights.pristine
  const { merged, values } = await merge({ [`${key}.diff`]: [16], [`${key}.diff_b`]: [16] }, into)
  for (const [part, suffix] of [
    ['weight', 'diff'],
    ['bias', 'diff_b'],
  ] as const) {
    const name = `text_model.encoder.layers.0.layer_norm1.${part}`
    const want = add(baseValues(name, into), values(`${key}.${suffix}`))
    expectClose(merged.get(name)!.data, want, atol)
  }
})
