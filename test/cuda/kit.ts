/** What the stubs of the CUDA libraries were asked to do, and weights that take no room. */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { describe } from 'vitest'
import type { Backend } from '../../src/engine/runtime/backends/backend.js'
import {
  cudaLibrary,
  isAddonBuilt,
  loadAddon,
} from '../../src/engine/runtime/backends/native/addon.js'
import { createFusedBackend } from '../../src/engine/runtime/backends/native/backend.js'
import type { Weights } from '../../src/engine/runtime/weights/weights.js'
import type { TensorSlice } from '../../src/safetensors/read.js'
import { elementCount } from '../../src/safetensors/tensor.js'

/** The folder in which `test/cuda/run` has prepared the provider and the stubs. */
export const stubs = process.env['FLUXD_CUDA_STUBS']

/** `describe` where they are; skipped elsewhere. */
export const describeOnStubs = describe.skipIf(stubs === undefined)

/** The same where the addon and its CUDA library have been built, too. */
export const describeNativeOnStubs = describe.skipIf(
  process.env['FLUXD_CUDA_STUBS'] === undefined || !isAddonBuilt() || !existsSync(cudaLibrary),
)

/** The native backend on the stubs; `captures` as of createFusedBackend. */
export function createNativeBackend(captures = 0): Backend {
  const ort = `${process.env['FLUXD_CUDA_STUBS']}/node_modules/onnxruntime-node`
  const addon = loadAddon(`${ort}/bin/napi-v6/linux/x64/libonnxruntime.so.1`)
  const device = new addon.Device({ ordinal: 0, library: cudaLibrary })
  return createFusedBackend({ addon, device, captures, dtype: 'BF16', attention: 'cudnn' })
}

export const kernels = ['flash', 'cudnn'] as const

/** What the device was asked to do. */
export type Requests = {
  /** Kernels of ONNX Runtime's own, by their mangled names. */
  readonly kernels: readonly string[]
  /** Calls of cuBLAS and of cuDNN that compute. */
  readonly products: number
  readonly cudnn: number
  /** Bytes of each copy. */
  readonly uploads: readonly number[]
  readonly downloads: readonly number[]
  /** Between places on the device. */
  readonly moves: readonly number[]
  readonly allocations: readonly number[]
  readonly frees: number
  /** Where uploads came from. */
  readonly sources: readonly string[]
  /** What went into CUDA graphs, as the log has it, and how often one was launched. */
  readonly captured: readonly string[]
  readonly captures: number
  readonly launches: number
}

/** What `work` made of the device. */
export async function watch<T>(work: () => Promise<T>) {
  const log = process.env['STUB_CUDA_LOG']!
  // Safe: the stubs append.
  writeFileSync(log, '')
  const result = await work()
  return { result, requests: readRequests(readFileSync(log, 'utf8').split('\n')) }
}

function readRequests(lines: readonly string[]): Requests {
  const of = (kind: string) =>
    lines.filter((line) => line.startsWith(`${kind} `)).map((line) => line.split(' '))
  const bytes = (cells: readonly string[]) => Number(cells[1])
  const copies = (kind: number) => of('COPY').filter(([, , cell]) => cell === `kind=${kind}`)
  return {
    kernels: of('KERNEL').map(([, name]) => name!),
    products: of('GEMM').length,
    cudnn: of('CUDNN').length,
    uploads: copies(1).map(bytes),
    downloads: copies(2).map(bytes),
    moves: copies(3).map(bytes),
    allocations: of('MALLOC').map(bytes),
    frees: of('FREE').length,
    sources: copies(1).map(([, , , from]) => from!),
    captured: listCaptured(lines),
    captures: lines.filter((line) => line === 'CAPTURE begin').length,
    launches: of('GRAPH').length,
  }
}

function listCaptured(lines: readonly string[]): string[] {
  let isCapturing = false
  return lines.filter((line) => {
    if (line.startsWith('CAPTURE ')) isCapturing = line.endsWith('begin')
    return isCapturing && !line.startsWith('CAPTURE ')
  })
}

export const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)

/** A line of the README's table. */
export function show(
  what: string,
  { kernels, products, cudnn, uploads, downloads, moves }: Requests,
) {
  const megabytes = (copies: readonly number[]) => (sum(copies) / 1e6).toFixed(1)
  console.log(
    `| ${what} | ${kernels.length} | ${products} | ${cudnn} | ${uploads.length} | ${megabytes(uploads)} | ${megabytes(downloads)} | ${megabytes(moves)} |`,
  )
}

/** How many kernels have this in their name. */
export const count = ({ kernels }: Requests, name: string) =>
  kernels.filter((each) => each.includes(name)).length

/** The autoencoder's params of Flux.1. */
export const autoencoder = {
  channels: [128, 256, 512, 512],
  layersPerBlock: 2,
  latentChannels: 16,
  groups: 32,
  scalingFactor: 0.3611,
  shiftFactor: 0.1159,
}

/**
 * Weights of any name and shape in bfloat16: holes in a sparse file at `path`. What reads them fills
 * the page cache, unless all are the same hole.
 */
export function sparseWeights(
  path: string,
  { isOneHole = false } = {},
): Weights & { readonly bytes: () => number } {
  closeSync(openSync(path, 'w'))
  const slices = new Map<string, TensorSlice>()
  let end = 0
  let length = 0

  function tensor(name: string, shape: readonly number[]): TensorSlice {
    const known = slices.get(name)
    if (known) return known
    const byteLength = 2 * elementCount(shape)
    const offset = isOneHole ? 0 : end
    const slice = { name, file: path, dtype: 'BF16', shape, offset, byteLength } as const
    end += byteLength
    length = Math.max(length, offset + byteLength)
    writeEnd(path, length)
    slices.set(name, slice)
    return slice
  }

  return {
    tensor,
    layer: (name, shape) => ({
      weight: tensor(`${name}.weight`, shape),
      bias: tensor(`${name}.bias`, shape.slice(0, 1)),
    }),
    all: () => [...slices.values()],
    pristine: slices,
    unused: () => [],
    bytes: () => end,
  }
}

function writeEnd(path: string, end: number) {
  const file = openSync(path, 'r+')
  ftruncateSync(file, end)
  closeSync(file)
}
