/**
 * The device's best rates of matrix products and of memory copies, measured through the runtime and
 * the dialect that the networks use. Runs in the calling process and, except with the addon, blocks
 * its thread during each run.
 */

import type { Backend } from '../engine/runtime/backends/backend.js'
import type { Session } from '../engine/runtime/backends/ort/session.js'
import { createGraph, type Graph } from '../engine/runtime/onnx/graph.js'
import { portableOps } from '../engine/runtime/ops/portable.js'
import type { TensorInMemory } from '../engine/runtime/weights/weights.js'
import { FluxdError } from '../errors.js'
import type { Precision } from '../plan/plan.js'
import { floatTensor } from '../safetensors/tensor.js'

/** [rows, inner]·[inner, outer], and back. */
export type ProductShape = {
  readonly rows: number
  readonly inner: number
  readonly outer: number
}

export type Ceilings = {
  readonly shape: ProductShape
  /** Floating-point operations per second; fp8 where it was measured. */
  readonly products: { readonly bf16: number; readonly fp8?: number | undefined }
  /** Bytes per second, read and written together. */
  readonly copies: number
}

type Runner = {
  readonly backend: Backend
  readonly threads: number
  /** Checked between two runs. */
  readonly signal?: AbortSignal | undefined
}

/** A graph of `count` equal parts one after the other, and the sum of their work. */
type Chain = {
  readonly graph: (count: number) => Graph
  readonly work: (count: number) => number
  readonly rows: number
}

// Long enough that the fixed cost of a run is negligible.
const runSeconds = 0.2
const rounds = 3
const maxCount = 256

/**
 * Measures both ceilings; the shape should be the one in which a step does most of its arithmetic.
 * A dialect that only imitates fp8 computes it in its usual dtype, whose rate is then fp8's too.
 * Throws `canceled` when `signal` aborts.
 */
export async function measureCeilings(
  shape: ProductShape,
  precisions: readonly Precision[],
  runner: Runner,
): Promise<Ceilings> {
  const weights = randomWeights(shape)
  const products = (precision: Precision) =>
    measureRate(
      {
        graph: (count) => productGraph(runner.backend, precision, weights, count),
        work: (count) => 4 * count * shape.rows * shape.inner * shape.outer,
        rows: shape.rows,
      },
      runner,
    )
  const bf16 = await products('bf16')
  const fp8 = precisions.includes('fp8') ? Math.max(bf16, await products('fp8')) : undefined
  return { shape, products: { bf16, fp8 }, copies: await measureRate(copies, runner) }
}

type PairOfWeights = { readonly up: TensorInMemory; readonly down: TensorInMemory }

/** Of a size that preserves the variance of the activations; zeros would take less power. */
function randomWeights({ inner, outer }: ProductShape): PairOfWeights {
  const make = (name: string, from: number, to: number): TensorInMemory => {
    const floats = new Float32Array(from * to).map(() => randomValue(Math.sqrt(3 / from)))
    const halves = new Uint16Array(floats.buffer)
    // The upper half of a float32 is a bfloat16.
    const values = new Uint16Array(from * to).map((_, i) => halves[2 * i + 1]!)
    return { name, dtype: 'BF16', shape: [to, from], values }
  }
  return { up: make('up', inner, outer), down: make('down', outer, inner) }
}

const randomValue = (limit: number) => (2 * Math.random() - 1) * limit

/** x [N, 1] spread over [N, inner], then up and down `count` times; its output is the first row. */
export function productGraph(
  backend: Backend,
  precision: Precision,
  { up, down }: PairOfWeights,
  count: number,
): Graph {
  const outer = createGraph('products')
  const ops = backend.ops(outer, precision)
  const { graph } = ops
  const inner = up.shape[1]!
  const row = graph.floats(
    Float32Array.from({ length: inner }, (_, i) => (i % 7) / 7),
    [1, inner],
  )
  let x = ops.add(graph.input('x', 'F32', ['N', 1]), row)
  for (let i = 0; i < count; i++)
    x = ops.blockLinear(ops.blockLinear(x, { weight: up }), { weight: down })
  const [first] = ops.splitAfter(x, graph.floats([0]))
  graph.output('first', first, 'F32', [1, inner])
  return outer
}

// 512 MiB of float32: more than caches hold.
const copyRows = 2 ** 14
const copyColumns = 2 ** 13

const copies: Chain = {
  graph(count) {
    const graph = createGraph('copies')
    const ops = portableOps(graph)
    let x = ops.add(
      graph.input('x', 'F32', ['N', 1]),
      graph.floats(new Float32Array(copyColumns), [1, copyColumns]),
    )
    for (let i = 0; i < count; i++) x = ops.add(x, graph.floats([1]))
    const [first] = ops.splitAfter(x, graph.floats([0]))
    graph.output('first', first, 'F32', [1, copyColumns])
    return graph
  },
  // Each addition reads and writes; the nodes before them only write.
  work: (count) => (2 * count + 1) * 4 * copyRows * copyColumns,
  rows: copyRows,
}

async function measureRate(chain: Chain, runner: Runner): Promise<number> {
  const seconds = await bestSeconds(chain, 2, runner)
  const count = Math.min(maxCount, Math.max(2, Math.round((2 * runSeconds) / seconds)))
  return chain.work(count) / (count === 2 ? seconds : await bestSeconds(chain, count, runner))
}

/** The least seconds of a few runs, after one that is not measured. */
async function bestSeconds(chain: Chain, count: number, runner: Runner): Promise<number> {
  throwIfCanceled(runner)
  const { session } = await open(chain.graph(count), runner)
  const x = floatTensor(
    Float32Array.from({ length: chain.rows }, () => randomValue(1)),
    [chain.rows, 1],
  )
  try {
    await session.run({ x })
    let best = Number.POSITIVE_INFINITY
    for (let i = 0; i < rounds; i++) {
      throwIfCanceled(runner)
      const startedAt = performance.now()
      await session.run({ x })
      best = Math.min(best, (performance.now() - startedAt) / 1000)
    }
    return best
  } finally {
    await session.release()
  }
}

function throwIfCanceled({ signal }: Runner) {
  if (signal?.aborted) throw new FluxdError('canceled', 'The measurement was canceled')
}

const open = (graph: Graph, { backend, threads }: Runner): Promise<{ readonly session: Session }> =>
  backend.createSessions({ session: { graph } }, { threads, widenWeights: 'load' })
