/**
 * Dialect `cuda` on the CPU: in float32, which its kernels there know, and with every value rounded
 * to bfloat16 where the dialect's own would be.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { compareImages } from '../../../../src/cli/similarity.js'
import { openTextSide } from '../../../../src/engine/checkpoint/checkpoint.js'
import { positionBuckets } from '../../../../src/engine/flux/t5.js'
import { loadModels } from '../../../../src/engine/models/models.js'
import { buildClipGraph, buildT5Graph } from '../../../../src/engine/models/textEncoders.js'
import { type Backend, portableBackend } from '../../../../src/engine/runtime/backends/backend.js'
import { ortLibrary } from '../../../../src/engine/runtime/backends/ort/library.js'
import { createGraph, type Graph, type Value } from '../../../../src/engine/runtime/onnx/graph.js'
import { type CudaOptions, cudaOps } from '../../../../src/engine/runtime/ops/cuda.js'
import { cast } from '../../../../src/engine/runtime/ops/dequantize.js'
import { intTensor } from '../../../../src/safetensors/tensor.js'
import { drawPng, sketch } from '../../../embedded/studio.js'
import {
  expectClose,
  expectOutputs,
  fixturePath,
  type GoldenCase,
  goldenCase,
} from '../../../goldens.js'
import { relativeError } from '../../../native/addon/numbers.js'
import { cases, runTransformer } from '../../flux/goldenTransformer.js'
import { addWords, storedDTypes, wordInputs } from '../words.js'

const tinyModels = ['tiny-dev', 'tiny-schnell'] as const
const embedded = fileURLToPath(new URL('../../../../models/tiny/dev', import.meta.url))
const kernels = ['flash', 'cudnn'] as const satisfies readonly CudaOptions['attention'][]

/** The dialect's graphs in sessions on the CPU. */
const backendOf = (
  attention: CudaOptions['attention'],
  through: (graph: Graph) => Graph = (graph) => graph,
): Backend => ({
  ops: (graph, precision = 'bf16') =>
    cudaOps(through(graph), { precision, attention, dtype: 'F32' }),
  imageOps: portableBackend.imageOps,
  createSessions: portableBackend.createSessions,
  weightBytes: portableBackend.weightBytes,
})

// What only moves values has nothing to round; angles are float32.
const exact = /^(Cast|Shape|ArgMax|Reshape|Squeeze|Unsqueeze|Split|Slice|Transpose|Concat|Gather)$/
const isAngle = (name: string) => name === 'cos' || name === 'sin'

/** The graph with bfloat16's numbers in float32 values: what each operator reads and writes. */
function rounding(graph: Graph): Graph {
  const round = (x: Value) => cast(graph, cast(graph, x, 'BF16'), 'F32')
  return {
    ...graph,
    input(name, dtype, dims) {
      const value = graph.input(name, dtype, dims)
      return dtype === 'F32' && !isAngle(name) ? round(value) : value
    },
    node(op, operands, options) {
      const value = graph.node(op, operands, options)
      return exact.test(op) ? value : round(value)
    },
    weight: (source) =>
      source.dtype === 'F32' ? round(graph.weight(source)) : graph.weight(source),
    floats: (values, dims) => round(graph.floats(values, dims)),
  }
}

describe.each(kernels)('with %s attention', (kernel) => {
  test.each(cases)('$id from $layout agrees with diffusers, block by block', async (each) => {
    const golden = goldenCase(each.id)
    // The portable dialect's differences, to 1e-6.
    expectOutputs(
      golden,
      await runTransformer(golden, { backend: backendOf(kernel), layout: each.layout }),
    )
  })

  test('fp8 is the portable dialect’s', async () => {
    const golden = goldenCase('transformer_tiny-dev')
    const run = (backend: Backend) =>
      runTransformer(golden, { backend, layout: 'tiny-dev', precision: 'fp8' })
    const got = await run(backendOf(kernel))
    // Observed: 1.3e-7.
    for (const [name, wanted] of Object.entries(await run(portableBackend)))
      expect(relativeError(got[name]!, wanted)).toBeLessThan(1e-5)
  })

  test.each(tinyModels)('the text encoders of %s agree with transformers', async (model) => {
    const { got, wanted } = await encodeText(model, backendOf(kernel))
    expectClose(got.pooled, wanted.pooled, goldenCase(`clip_${model}`).outputs['pooled']!.atol!)
    expectClose(got.hidden, wanted.hidden, goldenCase(`t5_${model}_128`).outputs['hidden']!.atol!)
  })
})

describe.each(storedDTypes)('over weights in %s', (dtype) => {
  const run = async (backend: Backend, precision: 'bf16' | 'fp8') => {
    const graph = addWords(backend.ops(createGraph('words'), precision), dtype)
    const { words } = await backend.createSessions(
      { words: { graph } },
      { threads: 1, widenWeights: 'run' },
    )
    return (await words.run(wordInputs()))['y']!.data
  }

  test.each(
    kernels.flatMap((kernel) =>
      (['bf16', 'fp8'] as const).map((precision) => [kernel, precision] as const),
    ),
  )('every word means what it means in portable: %s, %s', async (kernel, precision) => {
    const got = await run(backendOf(kernel), precision)
    // Observed: 9.5e-7.
    expectClose(got, await run(portableBackend, precision), 1e-5)
  })
})

// Relative errors against float32; below the lower bound nothing would be rounded.
describe('rounded to bfloat16', () => {
  const backend = backendOf('flash', rounding)
  const golden = goldenCase('transformer_tiny-dev')
  let rounded: Record<string, Float32Array>
  beforeAll(async () => {
    rounded = await runTransformer(golden, { backend, layout: 'tiny-dev' })
  })

  // Observed: from 2.6e-3 at the entries to 7.5e-3 at the end.
  test.each(Object.keys(golden.outputs))('%s of the transformer', (name) => {
    const error = relativeError(rounded[name]!, golden.outputs[name]!.data)
    expect(error).toBeGreaterThan(1e-3)
    expect(error).toBeLessThan(1.5e-2)
  })

  test.each(tinyModels)('the text encoders of %s', async (model) => {
    const { got, wanted } = await encodeText(model, backend)
    for (const name of ['pooled', 'hidden'] as const) {
      // Observed: from 3.4e-3 to 7.6e-3.
      const error = relativeError(got[name], wanted[name])
      expect(error).toBeGreaterThan(1e-3)
      expect(error).toBeLessThan(1.5e-2)
    }
  })

  test('an image of the embedded model is like that of float32', async () => {
    const draw = async (own: Backend) => {
      const models = await loadModels('dev', embedded, { threads: 0, backend: own })
      try {
        return await drawPng(models, sketch)
      } finally {
        await models.release()
      }
    }
    const likeness = await compareImages(await draw(backend), await draw(portableBackend))
    // Observed: 41.4 dB and 0.997.
    expect(likeness.psnr).toBeGreaterThan(36)
    expect(likeness.ssim).toBeGreaterThan(0.99)
  })
})

const provider = join(dirname(ortLibrary()), 'libonnxruntime_providers_cuda.so')

test.skipIf(existsSync(provider))(
  'a GPU that cannot be opened is an error with advice, never the CPU',
  async () => {
    const source = new URL('../../../../src/engine/runtime/', import.meta.url)
    const script = `
      const { createCudaBackend } = await import('${source}backends/ort/cuda.ts')
      const { createGraph } = await import('${source}onnx/graph.ts')
      const graph = createGraph('identity')
      graph.output('y', graph.input('x', 'F32', [1]), 'F32', [1])
      const options = { threads: 1, widenWeights: 'run' }
      await createCudaBackend('flash').createSessions({ graph: { graph } }, options).then(
        () => console.log('opened'),
        ({ message }) => console.log(message),
      )`
    // A process of its own: ONNX Runtime writes what failed to stderr.
    const { stdout } = await promisify(execFile)(process.execPath, [
      ...['--import', 'tsx', '--input-type=module', '--eval', script],
    ])
    expect(stdout).toMatch(
      /to open the graph on the GPU but it failed \(Error: .*\); `fluxd doctor`/s,
    )
  },
)

/** The first golden prompt of both text encoders: what came, and what transformers makes of it. */
async function encodeText(model: string, backend: Backend) {
  const text = openTextSide(fixturePath(model))
  const models = {
    clip: { graph: buildClipGraph(text.clip, backend) },
    t5: { graph: buildT5Graph(text.t5, backend) },
  }
  const sessions = await backend.createSessions(models, { threads: 1, widenWeights: 'load' })
  const [ofClip, ofT5] = [goldenCase(`clip_${model}`), goldenCase(`t5_${model}_128`)]
  const idsOf = ({ inputs }: GoldenCase, length: number) =>
    intTensor((inputs['input_ids']!.data as Int32Array).slice(0, length), [length])
  const buckets = intTensor(positionBuckets(text.t5.params, 128), [128, 128])
  const { pooled } = await sessions.clip.run({ ids: idsOf(ofClip, text.clip.params.positions) })
  const { hidden } = await sessions.t5.run({ ids: idsOf(ofT5, 128), buckets })
  await sessions.clip.release()
  await sessions.t5.release()
  return {
    got: { pooled: pooled!.data, hidden: hidden!.data },
    wanted: {
      pooled: ofClip.outputs['pooled']!.data.slice(0, pooled!.data.length),
      hidden: ofT5.outputs['hidden']!.data.slice(0, hidden!.data.length),
    },
  }
}
