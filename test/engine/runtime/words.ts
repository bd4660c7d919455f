/** A graph with every word of a transformer's vocabulary, over weights of one stored dtype. */
import { join } from 'node:path'
import type { Graph } from '../../../src/engine/runtime/onnx/graph.js'
import type { Ops } from '../../../src/engine/runtime/ops/ops.js'
import { openSafetensors } from '../../../src/safetensors/read.js'
import {
  type FloatTensor,
  floatTensor,
  intTensor,
  type Tensor,
} from '../../../src/safetensors/tensor.js'
import { temporaryFolder, writeStored } from '../../weightFiles.js'

export const storedDTypes = ['F32', 'F16', 'BF16', 'F8_E4M3'] as const

const heads = 2
const headDim = 16
const width = heads * headDim
const rows = 6
const shapes = {
  table: [10, width],
  matrix: [width, width],
  bias: [width],
  headNorm: [headDim],
  joint: [width, 2 * width],
}

/** Adds the words to `ops.graph`; the weights' bits are the same for every dialect. */
export function addWords(ops: Ops, dtype: (typeof storedDTypes)[number]): Graph {
  const { graph } = ops
  const { tensors } = openSafetensors(writeWeights(dtype))
  const tensor = (name: keyof typeof shapes) => {
    const slice = tensors.get(name)!
    return dtype === 'F8_E4M3' ? { ...slice, scale: 0.75 } : slice
  }
  const layer = { weight: tensor('matrix'), bias: tensor('bias') }
  const norm = { weight: tensor('bias'), bias: tensor('bias') }
  const dims = ['rows', headDim / 2]
  const tables = { cos: graph.input('cos', 'F32', dims), sin: graph.input('sin', 'F32', dims) }
  const first = ops.embedding(tensor('table'), graph.input('ids', 'I32', ['rows']))

  const x = ops.add(ops.linear(first, layer), ops.weight(tensor('bias')))
  const normed = ops.modulatedNorm(ops.layerNorm(x, norm, 1e-5), norm1(ops), norm1(ops))
  const qkv = { q: layer, k: layer, v: layer, normQ: tensor('headNorm'), normK: tensor('headNorm') }
  const { q, k, v } = ops.rotatedQkv([{ x: normed, ...qkv }], tables, heads)
  const mixed = ops.attention(q, k, v, { heads, scale: 0.25, causal: true })
  const gate = ops.reshape(ops.split(ops.weight(tensor('matrix')), width, 0)[0]!, [width])
  const gated = ops.blockLinear(mixed, layer, { kind: 'gated', residual: x, gate })
  const joint = { weight: tensor('joint'), bias: tensor('bias') }
  const made = ops.blockLinear(normed, layer, { kind: 'gelu' })
  const behindMade = ops.blockLinear([mixed, made], joint, { kind: 'gated', residual: gated, gate })
  const residual = ops.blockLinear([behindMade, mixed], { weight: joint.weight })
  const wide = ops.concat([ops.gelu(residual), ops.silu(residual)], 0)
  const [head, tail] = ops.splitAfter(ops.blockLinear(wide, layer, { kind: 'gelu' }), x)
  const halves = ops.mul(ops.quickGelu(head), ops.geluTanh(tail))
  const turned = ops.transpose(ops.transpose(halves, [1, 0]), [1, 0])
  graph.output('y', ops.rmsNorm(turned, tensor('bias'), 1e-6), 'F32', ['rows', width])
  return graph
}

const norm1 = ({ graph }: Ops) =>
  graph.floats(Array.from({ length: width }, (_, i) => 0.5 + i / width))

export function wordInputs(): Record<string, Tensor> {
  const angles = Array.from({ length: (rows * headDim) / 2 }, (_, i) => i / 7)
  const table = (of: (angle: number) => number): FloatTensor =>
    floatTensor(Float32Array.from(angles, of), [rows, headDim / 2])
  const ids = intTensor(
    Int32Array.from({ length: rows }, (_, i) => (3 * i) % 10),
    [rows],
  )
  return { ids, cos: table(Math.cos), sin: table(Math.sin) }
}

/** Values of either sign with magnitudes around 1. */
function writeWeights(dtype: (typeof storedDTypes)[number]): string {
  let state = 1
  const next = (below: number) => {
    state = (1664525 * state + 1013904223) % 2 ** 32
    return Math.floor((below * state) / 2 ** 32)
  }
  const bits = {
    // Sign, exponent (the last of 2^-3 to 2^0), mantissa.
    F32: () => Uint32Array.of((next(2) << 31) | ((124 + next(4)) << 23) | next(2 ** 23)),
    F16: () => Uint16Array.of((next(2) << 15) | ((12 + next(4)) << 10) | next(2 ** 10)),
    BF16: () => Uint16Array.of((next(2) << 15) | ((124 + next(4)) << 7) | next(2 ** 7)),
    F8_E4M3: () => Uint8Array.of((next(2) << 7) | ((4 + next(4)) << 3) | next(2 ** 3)),
  }[dtype]
  const bytesOf = (count: number) =>
    Buffer.concat(Array.from({ length: count }, () => new Uint8Array(bits().buffer)))
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    const bytes = bytesOf(shape.reduce((a, b) => a * b, 1))
    return [name, { dtype, shape, bytes }] as const
  })
  return writeStored(join(temporaryFolder(), 'words.safetensors'), Object.fromEntries(tensors))
}
