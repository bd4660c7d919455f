/**
 * vaePrecision [--vae FOLDER] [SIDE…]: what it costs a picture that the autoencoder decodes it in
 * fewer bits than float32. Pictures are those of the embedded models, or noise for another
 * autoencoder, the vae/ of a diffusers checkpoint. Both ways have 11 significant bits:
 *
 *     float16   weights and every value between two operators, as with FLUXD_VAE=float16
 *     TF32      the operands of convolutions and products only: what cuDNN makes of float32
 *
 * Needs no GPU: rounding is arithmetic in the graph. (ONNX Runtime's CPU provider would compute a
 * float16 graph in float32, without the casts between its operators.) What rounding to 11 bits does
 * not show is float16's range: the last column, the largest magnitude in the decoder, is to be
 * compared with its largest number, 65504.
 *
 *     npx tsx test/bench/vaePrecision.ts 256 512 1024
 */
import { parseArgs } from 'node:util'
import { readConfig } from '../../src/config/config.js'
import { openAutoencoder, openCheckpoint } from '../../src/engine/checkpoint/checkpoint.js'
import { addDecoder } from '../../src/engine/flux/autoencoder.js'
import { loadModels } from '../../src/engine/models/models.js'
import type { Decoder } from '../../src/engine/models/vae.js'
import { generate } from '../../src/engine/pipeline/generate.js'
import { startNoise } from '../../src/engine/pipeline/rng/randn.js'
import { portableBackend } from '../../src/engine/runtime/backends/backend.js'
import type { Session } from '../../src/engine/runtime/backends/ort/session.js'
import { createGraph, type Graph, type Value } from '../../src/engine/runtime/onnx/graph.js'
import type { Ops } from '../../src/engine/runtime/ops/ops.js'
import { portableOps } from '../../src/engine/runtime/ops/portable.js'
import type { GenerationPlan, PixelSize, Variant } from '../../src/plan/plan.js'
import { floatTensor } from '../../src/safetensors/tensor.js'

const { values: flags, positionals } = parseArgs({
  options: { vae: { type: 'string' } },
  allowPositionals: true,
})
const sides = positionals.length > 0 ? positionals.map(Number) : [256, 512, 1024]
const { checkpoints, threads } = readConfig({})
const options = { threads, widenWeights: 'load' } as const
const variants = ['dev', 'schnell'] as const
const prompts = ['a red circle on a white background', 'a blue star above a green square']

const planOf = (variant: Variant, prompt: string, size: PixelSize): GenerationPlan => ({
  variant,
  prompt,
  size,
  precision: 'bf16',
  start: { kind: 'noise' },
  loras: [],
  steps: variant === 'dev' ? 12 : 4,
  firstStep: 0,
  guidance: variant === 'dev' ? 3.5 : 0,
  seed: 7,
  count: 1,
  noise: 'torch-cuda',
  output: { format: 'png', quality: 80 },
  checkSafety: false,
  notes: [],
})

/** The latents of a picture. */
async function drawLatents(variant: Variant, prompt: string, size: PixelSize) {
  const models = await loadModels(variant, checkpoints[variant], { threads })
  let drawn = new Float32Array()
  const network = (): Decoder => {
    const own = models.decoder.network()
    const decode: Decoder['decode'] = (latents, ofSize) => {
      drawn = Float32Array.from(latents)
      return own.decode(latents, ofSize)
    }
    return { ...own, decode }
  }
  const hooks = { signal: new AbortController().signal, onProgress() {}, onImage() {} }
  const decoder = { ...models.decoder, network }
  await generate(planOf(variant, prompt, size), { ...models, decoder }, hooks)
  await models.release()
  return drawn
}

/** x with 11 significant bits, to nearest: Veltkamp's splitting. */
function round(graph: Graph, x: Value): Value {
  const wide = graph.node('Mul', [x, graph.floats([2 ** 13 + 1])])
  return graph.node('Sub', [wide, graph.node('Sub', [wide, x])])
}

const products = new Set(['Conv', 'Gemm', 'MultiHeadAttention'])

/** The graph with the operands of its products rounded; a bias is added in float32. */
function inTf32(graph: Graph): Graph {
  const rounded = (operands: readonly Value[], count: number) =>
    operands.map((x, i) => (i < count ? round(graph, x) : x))
  return {
    ...graph,
    node: (op, operands, settings) =>
      graph.node(
        op,
        products.has(op) ? rounded(operands, op === 'MultiHeadAttention' ? 3 : 2) : operands,
        settings,
      ),
  }
}

/**
 * The words that have float16 inside, with what they read and write rounded. The weights are
 * bfloat16 in their file: 8 significant bits.
 */
function inFloat16(ops: Ops): Ops {
  const { graph } = ops
  // Pixels become bytes in float32.
  const exact = new Set<Value>()
  const round16 = (x: Value) => round(graph, x)
  return {
    ...ops,
    conv: (x, layer, options) => round16(ops.conv(round16(x), layer, options)),
    linear: (x, layer) => round16(ops.linear(x, layer)),
    attention: (q, k, v, options) => round16(ops.attention(q, k, v, options)),
    groupNorm: (x, layer, groups) => round16(ops.groupNorm(x, layer, groups)),
    groupNormSilu: (x, layer, groups) => round16(ops.groupNormSilu(x, layer, groups)),
    mul(a, b) {
      const value = ops.mul(a, b)
      exact.add(value)
      return value
    },
    add: (a, b) => (exact.has(a) ? ops.add(a, b) : round16(ops.add(a, b))),
  }
}

type Autoencoder = ReturnType<typeof openAutoencoder>
type How = 'float32' | 'float16' | 'TF32'

const inside = /^(Conv|Gemm|Add|Mul|MultiHeadAttention)$/

/** The graph with an output `peaks`: the largest magnitude of each value inside. */
function withPeaks(graph: Graph) {
  const peaks: Value[] = []
  const watched: Graph = {
    ...graph,
    node(op, operands, settings) {
      const value = graph.node(op, operands, settings)
      if (inside.test(op)) {
        const magnitudes = graph.node('Abs', [value])
        const peak = graph.node('ReduceMax', [magnitudes], { attributes: { keepdims: 0 } })
        peaks.push(graph.node('Unsqueeze', [peak, graph.int64s([0])]))
      }
      return value
    },
  }
  return { watched, peaks }
}

/** The decoder's session, with output `peaks` where it is exact. */
async function openDecoder({ params, weights }: Autoencoder, how: How): Promise<Session> {
  const graph = createGraph('decoder')
  if (how === 'float16') addDecoder(inFloat16(portableOps(graph)), params, weights)
  if (how === 'TF32') addDecoder(portableOps(inTf32(graph)), params, weights)
  if (how === 'float32') {
    const { watched, peaks } = withPeaks(graph)
    addDecoder(portableOps(watched), params, weights)
    // The last are levels of the picture itself, up to 255.
    const all = graph.node('Concat', peaks.slice(0, -2), { attributes: { axis: 0 } })
    graph.output('peaks', all, 'F32', ['n'])
  }
  const models = { session: { graph, debugOutputs: ['image'] } }
  return (await portableBackend.createSessions(models, options)).session
}

/** Of pixels in [0, 255], before they are rounded: the largest difference, and PSNR in dB. */
function compare(got: Float32Array, want: Float32Array) {
  let largest = 0
  let squares = 0
  for (let i = 0; i < want.length; i++) {
    const difference = 127.5 * (clamp(got[i]!) - clamp(want[i]!))
    largest = Math.max(largest, Math.abs(difference))
    squares += difference ** 2
  }
  return { largest, psnr: 10 * Math.log10(255 ** 2 / (squares / want.length)) }
}

const clamp = (value: number) => Math.min(1, Math.max(-1, value))

/** A line of the table. */
async function describe(
  name: string,
  autoencoder: Autoencoder,
  latents: Float32Array,
  side: number,
) {
  const { latentChannels } = autoencoder.params
  const input = floatTensor(latents, [1, latentChannels, side / 8, side / 8])
  const decode = async (how: How) => {
    const session = await openDecoder(autoencoder, how)
    const { image, rgb, peaks } = await session.run({ latents: input })
    await session.release()
    return { image: image!.data as Float32Array, rgb: rgb!.data as Uint8Array, peaks }
  }
  const exact = await decode('float32')
  const cells = []
  for (const how of ['float16', 'TF32'] as const) {
    const { image, rgb } = await decode(how)
    const { psnr, largest } = compare(image, exact.image)
    const off = rgb.filter((byte, i) => byte !== exact.rgb[i]).length / rgb.length
    cells.push(psnr.toFixed(1), largest.toFixed(2), `${(100 * off).toFixed(1)} %`)
  }
  const peak = Math.max(...(exact.peaks!.data as Float32Array)).toFixed(1)
  console.log(`| ${side}², ${name} | ${cells.join(' | ')} | ${peak} |`)
}

console.log(
  '| picture | float16: dB | max of 255 | bytes off | TF32: dB | max | bytes off | peak |',
)
console.log('|---|---|---|---|---|---|---|---|')
for (const side of sides) {
  const size = { width: side, height: side }
  if (flags.vae !== undefined) {
    await describe('noise', openAutoencoder(flags.vae), startNoise('torch-cuda', 1, size), side)
    continue
  }
  for (const variant of variants)
    for (const prompt of prompts) {
      const { autoencoder } = openCheckpoint(checkpoints[variant])
      const latents = await drawLatents(variant, prompt, size)
      await describe(`${variant}, ${prompt}`, autoencoder, latents, side)
    }
}
