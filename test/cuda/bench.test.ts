/** `fluxd bench` on the CUDA provider: what ceilings are measured with is the device's work. */
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { bench } from '../../src/bench/bench.js'
import { listCases } from '../../src/bench/cases.js'
import { measureCeilings } from '../../src/bench/ceilings.js'
import { describeSurroundings } from '../../src/bench/machine.js'
import { inspectModel } from '../../src/bench/model.js'
import { type BackendKind, openBackend } from '../../src/engine/runtime/backends/open.js'
import { createCudaBackend } from '../../src/engine/runtime/backends/ort/cuda.js'
import { startEngine } from '../../src/worker/engine/client.js'
import { fixturePath } from '../goldens.js'
import { count, describeNativeOnStubs, describeOnStubs, sum, watch } from './kit.js'

const shape = { rows: 64, inner: 128, outer: 512 }

describeOnStubs('the ceilings of a GPU', () => {
  test('are measured in products and additions of the device, over weights that it holds', async () => {
    const { result, requests } = await watch(() =>
      measureCeilings(shape, ['bf16', 'fp8'], {
        backend: createCudaBackend('flash'),
        threads: 1,
      }),
    )
    expect(result.products.bf16).toBeGreaterThan(0)
    expect(result.copies).toBeGreaterThan(0)
    // Chains of two pairs and of some more, four runs each: two products a pair.
    expect(requests.products % 16).toBe(0)
    expect(requests.products).toBeGreaterThan(0)
    expect(count(requests, 'OP_Add')).toBeGreaterThan(0)
    // A run uploads its column and downloads its row; weights go up once for each session.
    expect(Math.max(...requests.uploads)).toBeLessThanOrEqual(2 * shape.inner * shape.outer)
    expect(sum(requests.downloads) / requests.downloads.length).toBeLessThan(2 ** 16)
    expect(requests.frees).toBe(requests.allocations.length)
  })
})

async function expectEveryPart(backend: BackendKind) {
  const checkpoints = { dev: fixturePath('tiny-dev'), schnell: fixturePath('tiny-schnell') }
  const notes: string[] = []
  const report = await bench(
    {
      cases: listCases({
        variants: ['dev', 'schnell'],
        precisions: ['bf16', 'fp8'],
        sizes: [{ width: 64, height: 96 }],
      }),
      models: [inspectModel('dev', checkpoints.dev), inspectModel('schnell', checkpoints.schnell)],
      ...{ repeats: 1, fromDisk: false, lora: undefined, threads: 1 },
      ...{ device: 'cuda', backend },
    },
    {
      start: () =>
        startEngine(
          { checkpoints, device: 'cuda', backend, threads: 1 },
          pino({ level: 'silent' }),
        ),
      surroundings: await describeSurroundings({}),
      note: (line) => void notes.push(line),
    },
  )
  expect(report).toMatchObject({ device: 'cuda', backend })
  expect(report.pictures.map(({ variant, precision }) => `${variant} ${precision}`)).toEqual([
    'dev bf16',
    'dev fp8',
    'schnell bf16',
    'schnell fp8',
  ])
  expect(notes.at(-1)).toBe('matrix products and copies')
}

describeOnStubs('fluxd bench on a GPU', () => {
  test('measures every part', () => expectEveryPart('ort'))
})

describeNativeOnStubs('fluxd bench on a GPU with the addon', () => {
  test('measures every part', () => expectEveryPart('native'))

  test('takes products and copies from the addon for ceilings', async () => {
    const backend = openBackend('cuda', 'native')
    const { result, requests } = await watch(() =>
      measureCeilings(shape, ['bf16', 'fp8'], { backend, threads: 1 }),
    )
    expect(result.products.fp8).toBeGreaterThanOrEqual(result.products.bf16)
    // Two products a pair, four runs of a chain; cuBLASLt is asked by the addon alone.
    expect(requests.products % 16).toBe(0)
    expect(count(requests, 'quantizeRowsKernel')).toBeGreaterThan(0)
    expect(count(requests, 'OP_Add')).toBeGreaterThan(0)
  })
})
