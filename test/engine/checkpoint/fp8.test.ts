/**
 * Single files that were quantised before: fluxd computes what it computes with a file of the
 * values that they stand for. The file is test/fixtures' own, rewritten as tools on the web do.
 */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { openBflTransformer } from '../../../src/engine/checkpoint/checkpoint.js'
import { createMerger } from '../../../src/engine/lora/merge/merger.js'
import { loadTransformer } from '../../../src/engine/models/transformer.js'
import { fixturePath, goldenCase, readSafetensors } from '../../goldens.js'
import { type Stored, temporaryFolder, writeStored } from '../../weightFiles.js'
import { values } from '../lora/loraFiles.js'
import { mergeAll } from '../lora/merging.js'
import { fixtureLora, loadMerged, options, tinyDevBfl, velocity } from '../lora/tinyDev.js'
import { fromE4m3, toE4m3 } from '../runtime/e4m3.js'

const original = readSafetensors(fixturePath('tiny-dev-bfl/flux1-dev.safetensors'))
const golden = goldenCase('lora_peft')
type Tensors = Record<string, Stored>

const open = (tensors: Tensors) =>
  openBflTransformer(writeStored(join(temporaryFolder(), 'flux.safetensors'), tensors), {
    axes: [4, 6, 6],
  })

async function predict(tensors: Tensors, precision: 'bf16' | 'fp8' = 'bf16') {
  const transformer = await loadTransformer(open(tensors), options, precision)
  const got = await velocity(transformer, golden)
  for (const session of transformer.sessions) await session.release()
  return got
}

const isBlockWeight = (name: string) => /^(double|single)_blocks\..*(?<!norm)\.weight$/.test(name)

/** Tensors as fp8 and as the values that are left, of those that `scaleOf` has a number for. */
function quantize(scaleOf: (name: string, data: Float32Array) => number | undefined) {
  const fp8: Tensors = {}
  const plain: Tensors = {}
  const scales: Record<string, number> = {}
  for (const [name, { data, shape }] of Object.entries(original)) {
    const floats = data as Float32Array
    const scale = scaleOf(name, floats)
    if (scale === undefined) {
      fp8[name] = plain[name] = values(floats, shape)
      continue
    }
    const codes = Uint8Array.from(floats, (value) => toE4m3(value / scale))
    fp8[name] = { dtype: 'F8_E4M3', shape, bytes: codes }
    plain[name] = values(
      Float32Array.from(codes, (code) => Math.fround(fromE4m3(code) * scale)),
      shape,
    )
    scales[name] = scale
  }
  return { fp8, plain, scales }
}

const scalar = (value: number) => values(Float32Array.of(value), [])
const unscaled = quantize(() => 1)
const scaled = quantize((name, data) =>
  isBlockWeight(name)
    ? Math.fround(data.reduce((max, value) => Math.max(max, Math.abs(value)), 0) / 448)
    : undefined,
)
const withScales = (rename: (weight: string) => string): Tensors => ({
  ...scaled.fp8,
  ...Object.fromEntries(
    Object.entries(scaled.scales).map(([name, scale]) => [rename(name), scalar(scale)]),
  ),
})
const oldScales = () => withScales((name) => name.replace(/weight$/, 'scale_weight'))
const newScales = () => withScales((name) => name.replace(/weight$/, 'weight_scale'))
/** As flux-fp8-api writes them: all under other names, with a placeholder for the weight. */
const fp8ApiNames = (): Tensors =>
  Object.fromEntries(
    Object.entries(scaled.fp8).flatMap(([name, tensor]) => {
      const scale = scaled.scales[name]
      if (scale === undefined) return [[name, tensor] as const]
      const layer = name.replace(/weight$/, '')
      return [
        [name, values(new Float32Array(1), [1])],
        [`${layer}float8_data`, tensor],
        [`${layer}scale`, scalar(1 / scale)],
        [`${layer}scale_reciprocal`, scalar(scale)],
        [`${layer}input_scale`, scalar(3)],
        [`${layer}input_scale_reciprocal`, scalar(1 / 3)],
      ] as const
    }),
  )
const marker = { dtype: 'F8_E4M3', shape: [2], bytes: new Uint8Array(2) }

describe('an fp8 checkpoint', () => {
  test('without scales, all tensors cast, predicts bit for bit what its values do', async () => {
    const got = await predict(unscaled.fp8)
    expect(got).toEqual(await predict(unscaled.plain))
    expect(got).not.toEqual(await velocity(await loadMerged(new Map(), tinyDevBfl), golden))
  })

  test.each([
    ['scale_weight and a marker', () => ({ scaled_fp8: marker, ...oldScales() })],
    [
      'scale_weight and scales of activations',
      () => ({ 'double_blocks.0.img_attn.qkv.scale_input': scalar(2), ...oldScales() }),
    ],
    ['weight_scale', newScales],
    [
      'weight_scale and the format of each layer',
      () => ({
        'single_blocks.0.linear1.comfy_quant': {
          dtype: 'U8',
          shape: [2],
          bytes: Buffer.from('{}'),
        },
        'single_blocks.0.linear1.input_scale': scalar(2),
        ...newScales(),
      }),
    ],
    ["flux-fp8-api's names", fp8ApiNames],
    [
      "weight_scale under ComfyUI's prefix",
      () =>
        Object.fromEntries(
          Object.entries(newScales()).map(([name, t]) => [`model.diffusion_model.${name}`, t]),
        ),
    ],
  ])('with %s predicts bit for bit what its values do', async (_, tensors) => {
    expect(await predict(tensors())).toEqual(await predict(scaled.plain))
  })

  test('runs in fp8 on its own codes', async () => {
    const [own, again, exact] = [
      await predict(newScales(), 'fp8'),
      await predict(scaled.plain, 'fp8'),
      await predict(scaled.plain),
    ]
    expect(own).not.toEqual(exact)
    // Values that are rounded a second time, by rows, are not the file's any more.
    expect(own).not.toEqual(again)
  })

  test('takes LoRAs into the values that its codes stand for', async () => {
    const adapter = fixtureLora('lora/lora_peft.safetensors')
    const merge = async (tensors: Tensors) => {
      const component = open(tensors)
      const rounding = 'float32'
      const merger = await createMerger(component.weights.pristine, [adapter], {
        rounding,
        threads: 1,
      })
      const merged = await mergeAll(merger, [0.8])
      await merger.release()
      return velocity(await loadMerged(merged, component), golden)
    }
    expect(await merge(newScales())).toEqual(await merge(scaled.plain))
  })
})

describe('a scaled checkpoint is refused', () => {
  const weight = 'single_blocks.1.linear2.weight'
  const key = 'single_blocks.1.linear2.weight_scale'
  test.each<[string, Tensors, RegExp]>([
    [
      'with a scale of 0',
      { ...newScales(), [key]: scalar(0) },
      /expected a positive number in single_blocks\.1\.linear2\.weight_scale but it is 0/,
    ],
    [
      'with an infinite scale',
      { ...newScales(), [key]: scalar(Number.POSITIVE_INFINITY) },
      /expected a positive number in \S+ but it is Infinity/,
    ],
    [
      'with a scale for each row',
      { ...newScales(), [key]: values(new Float32Array(32).fill(1), [32]) },
      /expected \S+weight_scale to be one number for the whole tensor but it is F32 \[32\]/,
    ],
    [
      'with two scales of one weight',
      { ...newScales(), 'single_blocks.1.linear2.scale_weight': scalar(1) },
      /expected one scale of single_blocks\.1\.linear2\.weight but there are two/,
    ],
    [
      'with a scale of a weight that is not fp8',
      { ...newScales(), [weight]: scaled.plain[weight]! },
      /weight_scale to go with single_blocks\.1\.linear2\.weight in F8_E4M3 but that is F32/,
    ],
    [
      'with a scale of no weight',
      { ...newScales(), 'single_blocks.9.linear2.weight_scale': scalar(1) },
      /to go with single_blocks\.9\.linear2\.weight in F8_E4M3 but that is missing/,
    ],
    [
      'without one of its scales',
      Object.fromEntries(Object.entries(newScales()).filter(([name]) => name !== key)),
      /a scale of single_blocks\.1\.linear2\.weight, as other fp8 weights .* it is missing/,
    ],
    [
      "without any of flux-fp8-api's scales",
      Object.fromEntries(
        Object.entries(fp8ApiNames()).filter(([name]) => !/scale_reciprocal$/.test(name)),
      ),
      /expected a scale of \S+weight, as other fp8 weights of the file have one, but it is missing/,
    ],
    [
      'with the marker and no scale at all',
      { scaled_fp8: marker, ...scaled.fp8 },
      /expected a scale of \S+, as other fp8 weights of the file have one, but it is missing/,
    ],
  ])('%s', (_, tensors, message) => {
    expect(() => open(tensors)).toThrow(expect.objectContaining({ code: 'checkpoint_invalid' }))
    expect(() => open(tensors)).toThrow(message)
  })
})
