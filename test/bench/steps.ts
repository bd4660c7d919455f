/**
 * Times one denoising step of the native backend by what becomes of its inputs: sent with every run,
 * placed on the device once, or replayed with it as a CUDA graph. Writes a report for each size.
 *
 *     node --import tsx test/bench/steps.ts CHECKPOINT [--device cuda|cpu] [--size 512x512]…
 *          [--precision bf16|fp8]… [--runs 30] [--json FILE]
 */
import { writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { round, type Spread, spreadOf } from '../../src/bench/statistics.js'
import { type Component, openCheckpoint } from '../../src/engine/checkpoint/checkpoint.js'
import { type FluxParams, sinusoidDim } from '../../src/engine/flux/params.js'
import { loadTransformer, type Transformer } from '../../src/engine/models/transformer.js'
import { ropeTables, tokenGrid } from '../../src/engine/pipeline/latents.js'
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import { type Device, openBackend } from '../../src/engine/runtime/backends/open.js'
import type { Precision } from '../../src/engine/runtime/ops/ops.js'
import type { PixelSize } from '../../src/plan/plan.js'
import { floatTensor } from '../../src/safetensors/tensor.js'
import { withoutPlaces } from './unplaced.js'

export type StepsRequest = {
  readonly device: Device
  readonly sizes: readonly PixelSize[]
  readonly precisions: readonly Precision[]
  readonly runs: number
}

export type StepTimes = {
  readonly precision: Precision
  readonly inputs: Way
  readonly size: PixelSize
  readonly milliseconds: Spread
}

type Way = 'sent' | 'placed' | 'captured'

const openWay: Readonly<Record<Way, (request: StepsRequest) => Backend>> = {
  sent: ({ device }) => withoutPlaces(openBackend(device, 'native')),
  placed: ({ device }) => openBackend(device, 'native'),
  captured: ({ device, sizes }) => openBackend(device, 'native', { cudaGraphs: sizes.length }),
}

/** Times every way at every size; `onTimes` hears of each as soon as it is known. */
export async function measureSteps(
  component: Component<FluxParams>,
  request: StepsRequest,
  onTimes: (times: StepTimes) => void = () => {},
): Promise<StepTimes[]> {
  const all: StepTimes[] = []
  for (const precision of request.precisions)
    for (const inputs of ['sent', 'placed', 'captured'] as const) {
      const options = { threads: 0, widenWeights: 'load' } as const
      const transformer = await loadTransformer(
        component,
        options,
        precision,
        openWay[inputs](request),
      )
      for (const size of request.sizes) {
        const milliseconds = await timeSteps(transformer, size, request.runs)
        const times = { precision, inputs, size, milliseconds }
        onTimes(times)
        all.push(times)
      }
      for (const session of transformer.sessions) await session.release()
    }
  return all
}

const txtTokens = 512
// The first allocate, and are captured; the GPU's clock rises with them.
const warmUps = 5

async function timeSteps(transformer: Transformer, size: PixelSize, runs: number): Promise<Spread> {
  const { predict, release } = await placeZeros(transformer, size)
  const { tokenRows, tokenCols } = tokenGrid(size)
  const latents = new Float32Array(tokenRows * tokenCols * transformer.params.inChannels)
  const times: number[] = []
  for (let i = 0; i < warmUps + runs; i++) {
    const startedAt = performance.now()
    // Every step has a row of modulation of its own.
    await predict(latents, i % 2)
    if (i >= warmUps) times.push(performance.now() - startedAt)
  }
  await release()
  const { median, low, high } = spreadOf(times)
  return { median: round(median), low: round(low), high: round(high) }
}

/** Two steps of a prompt that is all zeros: what is computed does not change how long it takes. */
async function placeZeros({ params, condition, bindSteps }: Transformer, size: PixelSize) {
  const { tokenRows, tokenCols } = tokenGrid(size)
  const zeros = (...dims: number[]) =>
    floatTensor(new Float32Array(dims.reduce((a, b) => a * b, 1)), dims)
  const conditioning = await condition({
    prompt: { hidden: zeros(txtTokens, params.txtDim), pooled: zeros(1, params.vecDim) },
    timesteps: [0, 1].map(() => new Float32Array(sinusoidDim)),
    guidance: new Float32Array(sinusoidDim),
  })
  const { cos, sin } = ropeTables(txtTokens, tokenRows, tokenCols, params.axes)
  const dims = [txtTokens + tokenRows * tokenCols, params.headDim / 2]
  return bindSteps(conditioning, { cos: floatTensor(cos, dims), sin: floatTensor(sin, dims) })
}

export const describeTimes = ({ precision, inputs, size, milliseconds }: StepTimes) =>
  `${precision} ${size.width}x${size.height} ${inputs}: ${milliseconds.median} ms (${milliseconds.low} to ${milliseconds.high})`

function readSize(text: string): PixelSize {
  const [, width, height] = /^(\d{2,4})x(\d{2,4})$/.exec(text) ?? []
  if (!width || !height) throw new Error(`Expected a size such as 512x512 but received ${text}`)
  return { width: Number(width), height: Number(height) }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      device: { type: 'string', default: 'cuda' },
      size: { type: 'string', multiple: true, default: ['512x512', '1024x1024'] },
      precision: { type: 'string', multiple: true, default: ['bf16', 'fp8'] },
      runs: { type: 'string', default: '30' },
      json: { type: 'string' },
    },
  })
  const [path] = positionals
  if (path === undefined) throw new Error('Expected the path of a checkpoint')
  const request: StepsRequest = {
    device: values.device === 'cpu' ? 'cpu' : 'cuda',
    sizes: values.size.map(readSize),
    precisions: values.precision.map((name) => (name === 'fp8' ? 'fp8' : 'bf16')),
    runs: Number(values.runs),
  }
  const { transformer } = openCheckpoint(path)
  const times = await measureSteps(transformer, request, (each) => console.log(describeTimes(each)))
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(times, null, 2)}\n`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
